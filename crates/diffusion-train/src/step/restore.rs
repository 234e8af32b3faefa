//! The files of a checkpoint, and the errors of resuming from one.

use std::fmt;

use diffusion_model::Weights;
use thiserror::Error;

/// A file in the folder of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFile {
    /// Everything except the tensors.
    State,
    /// The weights.
    Model,
    /// The moving average (EMA) of the weights.
    Ema,
    /// The optimiser's moments.
    Optimizer,
    /// The losses from which importance sampling computes its probabilities, if it is used.
    LossHistory,
    /// The averages of the weights by power functions, if the run saves them.
    Averages,
}

impl CheckpointFile {
    /// The name of the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => diffusion_model::ModelState::FILE,
            Self::Model => Weights::Raw.file(),
            Self::Ema => Weights::Ema.file(),
            Self::Optimizer => "optimizer.safetensors",
            Self::LossHistory => "loss_history.safetensors",
            Self::Averages => "averages.safetensors",
        }
    }
}

/// Why a training cannot resume from a checkpoint.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The pictures differ from those of the checkpoint's training.
    #[error("the run was trained on other data")]
    OtherData,
    /// A part of the checkpoint does not fit the training.
    #[error("{problem}")]
    Incompatible {
        /// The file that does not fit. `None`: the checkpoint as a whole.
        file: Option<CheckpointFile>,
        /// What is wrong, in one sentence.
        problem: String,
    },
}

impl RestoreError {
    pub(super) fn new(file: Option<CheckpointFile>, problem: impl fmt::Display) -> Self {
        Self::Incompatible { file, problem: problem.to_string() }
    }
}
