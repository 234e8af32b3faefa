//! The error type.

use std::path::{Path, PathBuf};

use diffusion_files::FileError;
use diffusion_nn::ParameterError;
use diffusion_schedule::ScheduleError;
use thiserror::Error;

/// Why an import or an export failed, or a scheduler is not supported.
#[derive(Debug, Error)]
pub enum InteropError {
    /// The scheduler's configuration is not a JSON object. The message says where.
    #[error("scheduler configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// The scheduler's configuration has an unknown key, or a value of the wrong type.
    #[error("scheduler configuration: {0}")]
    Setting(String),
    /// The class of the scheduler is not supported.
    #[error(
        "scheduler `{0}` is not supported; supported: {known}",
        known = crate::SchedulerClass::names()
    )]
    UnknownScheduler(String),
    /// A value of a known setting is not supported or not valid.
    #[error("{class}: `{key}` is {value}; {expected}")]
    Unsupported {
        /// Class of the scheduler.
        class: &'static str,
        /// Name of the setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// The supported values.
        expected: String,
    },
    /// The noise schedule or the plan is not valid.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A file or folder cannot be read, written or used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tensors do not match the parameters of the network.
    #[error("{path}: {source}", path = .path.display())]
    Parameters {
        /// Path of the file.
        path: PathBuf,
        /// Which tensor, and what is wrong.
        source: ParameterError,
    },
    /// `diffusers` cannot represent the model.
    #[error("this model cannot be exported: {0}")]
    NotExpressible(String),
}

impl InteropError {
    pub(crate) fn unusable(path: &Path, problem: impl ToString) -> Self {
        FileError::unusable(path, problem).into()
    }
}
