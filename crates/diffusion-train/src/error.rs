use std::path::PathBuf;

use diffusion_files::FileError;
use diffusion_model::ModelError;
use thiserror::Error;

use crate::ConfigError;

/// Why a training or the use of a checkpoint failed.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The configuration is invalid or does not fit the data.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or folder cannot be read, written or used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder for a new run already holds a run.
    #[error("{path}: this folder already holds a run", path = .path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// The training to resume used other pictures.
    #[error("{path}: the run was trained on other data", path = .path.display())]
    OtherData {
        /// The folder of the checkpoint.
        path: PathBuf,
    },
    /// An unconditional training cannot start from a class-conditional model.
    #[error("{path}: this model is class-conditional, and the training is unconditional", path = .path.display())]
    ClassesMissing {
        /// The folder of the checkpoint.
        path: PathBuf,
    },
    /// The loss or a gradient is not finite.
    #[error(
        "training diverged at step {step}: {quantity} is not finite (learning rate {lr:.3e}); {}; \
         try a smaller learning rate or clip_grad_norm",
        match .last_checkpoint {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "no checkpoint was written yet".to_owned(),
        }
    )]
    NotFinite {
        /// The first quantity that is not finite.
        quantity: String,
        /// The step, counted from 0.
        step: u64,
        /// The learning rate of that step.
        lr: f64,
        /// The checkpoint to resume from.
        last_checkpoint: Option<PathBuf>,
    },
    /// The first backward pass did not reach every parameter.
    #[error("the first step gave no usable gradient to {}: an operation in the network blocks it", .names.join(", "))]
    DeadParameters {
        /// The parameters whose gradient is missing, zero or not finite.
        names: Vec<String>,
    },
    /// An error of the data set.
    #[error(transparent)]
    Data(#[from] diffusion_data::DataError),
    /// A picture cannot be written.
    #[error(transparent)]
    Picture(#[from] diffusion_picture::PictureError),
    /// The noise schedule is invalid.
    #[error(transparent)]
    Schedule(#[from] diffusion_schedule::ScheduleError),
    /// The tensors of a file do not fit the network.
    #[error("{path}: {source}", path = .path.display())]
    Parameters {
        /// The file.
        path: PathBuf,
        /// The tensor and the reason.
        source: diffusion_nn::ParameterError,
    },
    /// A model cannot be loaded or sampled.
    #[error(transparent)]
    Model(Box<ModelError>),
    /// A judge cannot be built or used.
    #[error(transparent)]
    Eval(#[from] diffusion_eval::EvalError),
    /// The judge failed on the images generated during training.
    #[error("the images generated at step {step} cannot be evaluated: {source}")]
    Judge {
        /// Updates made.
        step: u64,
        /// The error of the judge.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An error of the device.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<ModelError> for TrainError {
    fn from(error: ModelError) -> Self {
        Self::Model(Box::new(error))
    }
}
