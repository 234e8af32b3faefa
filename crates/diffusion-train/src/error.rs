use std::path::PathBuf;

use diffusion_files::FileError;
use diffusion_model::ModelError;
use thiserror::Error;

use crate::ConfigError;

/// Why training, or the use of a checkpoint, stopped.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The configuration cannot be trained.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or folder that cannot be read, written or used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A new run in a folder that has one.
    #[error("{path}: this folder already holds a run", path = .path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// A training that would go on with other pictures.
    #[error("{path}: the run was trained on other data", path = .path.display())]
    OtherData {
        /// The folder of the checkpoint.
        path: PathBuf,
    },
    /// A training without classes that would begin with a model that needs them.
    #[error("{path}: its network is told classes, and this training's is not", path = .path.display())]
    ClassesMissing {
        /// The folder of the checkpoint.
        path: PathBuf,
    },
    /// A loss, a gradient or a weight is no longer a finite number.
    #[error(
        "training diverged at step {step}: {what} is not finite (learning rate {lr:.3e}); {}; \
         try a smaller learning rate or clip_grad_norm",
        match .last_checkpoint { Some(path) => format!("the last good checkpoint is {}", path.display()), None => "no checkpoint was written yet".to_owned() }
    )]
    NotFinite {
        /// The first bad tensor.
        what: String,
        /// The step, counted from 0.
        step: u64,
        /// The learning rate of that step.
        lr: f64,
        /// Where to go on from.
        last_checkpoint: Option<PathBuf>,
    },
    /// The first backward pass did not reach every parameter.
    #[error("the first step gave no usable gradient to {}: an operation in the network cuts it", .names.join(", "))]
    DeadParameters {
        /// Parameters whose gradient is missing, zero or not finite.
        names: Vec<String>,
    },
    /// The data's own error.
    #[error(transparent)]
    Data(#[from] diffusion_data::DataError),
    /// A picture that cannot be written.
    #[error(transparent)]
    Picture(#[from] diffusion_picture::PictureError),
    /// The schedule's own error.
    #[error(transparent)]
    Schedule(#[from] diffusion_schedule::ScheduleError),
    /// Tensors that are not the parameters of the network.
    #[error("{path}: {source}", path = .path.display())]
    Parameters {
        /// The file.
        path: PathBuf,
        /// Which tensor, and why.
        source: diffusion_nn::ParameterError,
    },
    /// A model that cannot be loaded or sampled.
    #[error(transparent)]
    Model(Box<ModelError>),
    /// A judge of the images drawn on the way could not judge.
    #[error("the images drawn at step {step} cannot be judged: {source}")]
    Judge {
        /// Updates made.
        step: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device's own error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<ModelError> for TrainError {
    fn from(error: ModelError) -> Self {
        Self::Model(Box::new(error))
    }
}
