//! A training at rest, in memory.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::Tensor;
use diffusion_data::LoaderPosition;
use diffusion_model::{ModelDescription, Weights};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::timesteps::LossHistory;

/// `checkpoint.json`: everything but the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointState {
    /// [`FORMAT_VERSION`](diffusion_model::FORMAT_VERSION) of the writer.
    pub format_version: u32,
    /// Updates made.
    pub step: u64,
    /// Seconds of training so far, over all runs.
    pub elapsed_seconds: f64,
    /// The seed that, with the step, determines every random number to come.
    pub seed: u64,
    /// The batch that comes next.
    pub position: LoaderPosition,
    /// A hash of the parts of the configuration that determine the numbers.
    pub config_hash: String,
    /// [`fingerprint`](diffusion_data::ImageDataset::fingerprint) of the data.
    pub data_fingerprint: u32,
    /// The model.
    pub model: ModelDescription,
}

/// The whole of a training.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Everything but the tensors.
    pub state: CheckpointState,
    /// The weights.
    pub model: BTreeMap<String, Tensor>,
    /// Their moving average.
    pub ema: BTreeMap<String, Tensor>,
    /// The optimizer's moments.
    pub optimizer: BTreeMap<String, Tensor>,
    /// The losses that importance sampling goes by, where it is used.
    pub loss_history: Option<LossHistory>,
}

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
