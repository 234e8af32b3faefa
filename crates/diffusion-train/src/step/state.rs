//! The state of a training as a value.

use std::collections::BTreeMap;

use candle_core::Tensor;
use diffusion_data::LoaderPosition;
use diffusion_model::ModelDescription;
use serde::{Deserialize, Serialize};

use super::timesteps::LossHistory;

/// The content of `checkpoint.json`: everything except the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointState {
    /// The [`FORMAT_VERSION`](diffusion_model::FORMAT_VERSION) of the program that wrote it.
    pub format_version: u32,
    /// The number of updates made.
    pub step: u64,
    /// The training time in seconds, over all resumes.
    pub elapsed_seconds: f64,
    /// The seed, which together with the step determines every random number to come.
    pub seed: u64,
    /// The position of the next batch.
    pub position: LoaderPosition,
    /// A hash of the configuration fields that determine the numeric results.
    pub config_hash: String,
    /// The [`fingerprint`](diffusion_data::ImageDataset::fingerprint) of the data.
    pub data_fingerprint: u32,
    /// The description of the model.
    pub model: ModelDescription,
}

/// The complete state of a training.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Everything except the tensors.
    pub state: CheckpointState,
    /// The weights.
    pub model: BTreeMap<String, Tensor>,
    /// The moving average (EMA) of the weights.
    pub ema: BTreeMap<String, Tensor>,
    /// The optimiser's moments.
    pub optimizer: BTreeMap<String, Tensor>,
    /// The losses from which importance sampling computes its probabilities, if it is used.
    pub loss_history: Option<LossHistory>,
    /// The averages of the weights by power functions, if the run saves them.
    pub averages: Option<BTreeMap<String, Tensor>>,
}
