//! Why a training cannot go on from a checkpoint, and the file that says so.

use std::fmt;

use diffusion_model::Weights;
use thiserror::Error;

/// A file of a checkpoint's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFile {
    /// Everything but the tensors.
    State,
    /// The weights.
    Model,
    /// Their moving average.
    Ema,
    /// The optimizer's moments.
    Optimizer,
    /// The losses that importance sampling goes by, where it is used.
    LossHistory,
}

impl CheckpointFile {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => diffusion_model::ModelState::FILE,
            Self::Model => Weights::Raw.file(),
            Self::Ema => Weights::Ema.file(),
            Self::Optimizer => "optimizer.safetensors",
            Self::LossHistory => "loss_history.safetensors",
        }
    }
}

/// Why a training cannot go on from a checkpoint.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The pictures are not those of the training.
    #[error("the run was trained on other data")]
    OtherData,
    /// A part of the checkpoint that does not fit the training.
    #[error("{problem}")]
    Unfit {
        /// The file that does not fit; none: the checkpoint as a whole.
        file: Option<CheckpointFile>,
        /// One sentence.
        problem: String,
    },
}

impl RestoreError {
    pub(super) fn new(file: Option<CheckpointFile>, problem: impl fmt::Display) -> Self {
        Self::Unfit { file, problem: problem.to_string() }
    }
}
