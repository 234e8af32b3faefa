use std::path::PathBuf;

use diffusion_files::FileError;
use diffusion_nn::ParameterError;
use diffusion_sample::SampleError;
use diffusion_sample::edit::EditError;
use diffusion_schedule::ScheduleError;
use thiserror::Error;

use crate::{ClassError, GuidanceError, SamplerError};

/// Why a model cannot be loaded or used.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A file or folder that cannot be read, written or used.
    #[error(transparent)]
    File(#[from] FileError),
    /// An invalid schedule, or a number of steps that it does not have.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Tensors that do not match the parameters of the network.
    #[error("{path}: {source}", path = .path.display())]
    Parameters {
        /// The file.
        path: PathBuf,
        /// The tensor and the reason.
        source: ParameterError,
    },
    /// A class that the model does not have.
    #[error(transparent)]
    Class(#[from] ClassError),
    /// A sampler that does not suit the model.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// A number of steps that the model's own sampling method does not have.
    #[error(transparent)]
    Method(Box<dyn std::error::Error + Send + Sync>),
    /// Guidance that does not suit the model.
    #[error(transparent)]
    Guidance(#[from] GuidanceError),
    /// Sampling was cancelled, or a result is not finite.
    #[error("sampling: {0}")]
    Sample(#[from] SampleError),
    /// An edit that does not fit its pictures.
    #[error(transparent)]
    Edit(EditError),
    /// An error of the device or the network.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl ModelError {
    /// Whether the observer stopped the generation.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Sample(SampleError::Cancelled { .. }))
    }
}

impl From<EditError> for ModelError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Sample(SampleError::Candle(error)) => Self::Candle(error),
            EditError::Sample(error) => Self::Sample(error),
            error => Self::Edit(error),
        }
    }
}
