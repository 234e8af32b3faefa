//! Runs made from models that were trained elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use diffusion_data::LoaderPosition;
use diffusion_files::{FileError, write_new_folder, write_synced};
use diffusion_model::{FORMAT_VERSION, ModelDescription, ModelState};

use super::RunDir;
use crate::recipe::{conditional, network_alone};
use crate::{Checkpoint, CheckpointState, TrainConfig, TrainError};

/// The configuration hash of a model that was trained elsewhere.
const UNKNOWN_CONFIG: &str = "unknown";

impl CheckpointState {
    /// Whether the model was trained elsewhere, so that its training cannot be resumed.
    pub fn is_adopted(&self) -> bool {
        self.config_hash == UNKNOWN_CONFIG
    }
}

impl RunDir {
    /// Makes a run from a model that was trained elsewhere: one checkpoint of `weights` and their
    /// moving average, at step 0.
    ///
    /// The folder is written beside its final name and renamed when it is complete. On an error,
    /// nothing is left behind.
    ///
    /// # Errors
    /// If the description is invalid; if the folder is not empty; an I/O error of the operating
    /// system.
    pub fn adopt(path: &Path, model: AdoptedModel) -> Result<(), TrainError> {
        if let Some(problem) = model.description.problem() {
            return Err(FileError::unusable(path, problem).into());
        }
        write_new_folder(path, |partial| write_run(partial, model))
    }
}

/// A model that was trained elsewhere.
#[derive(Clone, Debug)]
pub struct AdoptedModel {
    /// The description of the model.
    pub description: ModelDescription,
    /// The weights, by parameter name.
    pub weights: BTreeMap<String, Tensor>,
    /// The moving average of the weights. `None`: the weights themselves.
    pub ema: Option<BTreeMap<String, Tensor>>,
    /// The text of the scheduler's file, which the run keeps unchanged.
    pub scheduler: Option<String>,
}

fn write_run(dir: &Path, adopted: AdoptedModel) -> Result<(), TrainError> {
    let AdoptedModel { description: model, weights, ema, scheduler } = adopted;
    let [_, height, width] = model.image_shape;
    let config = TrainConfig {
        size: (height == width).then_some(height),
        prediction_type: model.prediction_type,
        network: network_alone(&model),
        learned_variance: model.learned_variance(),
        conditional: conditional(&model),
        schedule: model.schedule.clone(),
        edm: model.edm,
        ..TrainConfig::default()
    };
    let run = RunDir::create(dir, &config)?;
    let state = CheckpointState {
        format_version: FORMAT_VERSION,
        step: 0,
        elapsed_seconds: 0.0,
        seed: config.seed,
        position: LoaderPosition::default(),
        config_hash: UNKNOWN_CONFIG.to_owned(),
        data_fingerprint: 0,
        model,
    };
    let ema = ema.unwrap_or_else(|| weights.clone());
    let checkpoint = Checkpoint {
        state,
        model: weights,
        ema,
        optimizer: BTreeMap::new(),
        loss_history: None,
        averages: None,
    };
    let folder = run.layout().checkpoint(0);
    checkpoint.write(&folder)?;
    if let Some(text) = scheduler {
        write_synced(&folder.join(ModelState::SCHEDULER), text.as_bytes())?;
    }
    run.set_latest(0)
}
