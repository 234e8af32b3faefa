use std::path::{Path, PathBuf};

use diffusion_files::FileError;
use diffusion_nn::ParameterError;
use diffusion_schedule::ScheduleError;
use thiserror::Error;

/// Why something of another library could not be taken over, or given to it.
#[derive(Debug, Error)]
pub enum InteropError {
    /// Not JSON, an unknown key or a value of the wrong kind; the message says where.
    #[error("scheduler configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// A scheduler this project does not have.
    #[error("scheduler `{0}` is not supported; these are: {known}", known = crate::SchedulerClass::names())]
    UnknownScheduler(String),
    /// A setting that is known but not supported, or makes no sense.
    #[error("{class}: `{key}` is {value}; {expected}")]
    Unsupported {
        /// The scheduler.
        class: &'static str,
        /// The setting.
        key: &'static str,
        /// What it was.
        value: String,
        /// What is supported.
        expected: String,
    },
    /// The schedule's own error.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A file or folder that cannot be read, written or used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Tensors that are not the parameters of the network.
    #[error("{path}: {source}", path = .path.display())]
    Parameters {
        /// The file.
        path: PathBuf,
        /// Which tensor, and why.
        source: ParameterError,
    },
    /// A model that the other library has no form for.
    #[error("this model cannot be exported: {0}")]
    NotExpressible(String),
}

impl InteropError {
    pub(crate) fn unusable(path: &Path, problem: impl ToString) -> Self {
        FileError::unusable(path, problem).into()
    }
}
