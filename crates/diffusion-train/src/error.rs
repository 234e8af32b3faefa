use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::ConfigError;

/// Why training, or the use of a checkpoint, stopped.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The configuration cannot be trained.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The operating system's refusal.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint or run folder that cannot be used.
    #[error("{path}: {problem}", path = .path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// One sentence: what is wrong, and what would be right.
        problem: String,
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
    /// The schedule's own error.
    #[error(transparent)]
    Schedule(#[from] diffusion_schedule::ScheduleError),
    /// Tensors that are not the parameters of the network.
    #[error("{path}: {source}", path = .path.display())]
    Parameters {
        /// The file.
        path: PathBuf,
        /// Which tensor, and why.
        source: diffusion_unet::ParameterError,
    },
    /// The sampler's error.
    #[error("sampling: {0}")]
    Sample(#[from] diffusion_sample::SampleError),
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

impl TrainError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn unusable(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unusable { path: path.to_owned(), problem: problem.into() }
    }
}
