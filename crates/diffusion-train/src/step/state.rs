//! A training at rest, in memory.

use std::collections::BTreeMap;

use candle_core::Tensor;
use diffusion_data::LoaderPosition;
use diffusion_model::ModelDescription;
use serde::{Deserialize, Serialize};

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
