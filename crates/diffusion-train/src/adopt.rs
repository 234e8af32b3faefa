//! Runs from models that were trained elsewhere, and configurations from models.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::Tensor;
use diffusion_data::LoaderPosition;
use diffusion_unet::NetworkConfig;
use toml::Table;

use crate::checkpoint::beside;
use crate::{
    Checkpoint, CheckpointState, Conditional, ConfigError, FORMAT_VERSION, ModelDescription, RunDir,
    TrainConfig, TrainError,
};

/// What stands in place of the hash of a configuration that nobody knows.
const UNKNOWN_CONFIG: &str = "unknown";

impl CheckpointState {
    /// Whether the model was trained elsewhere, so that there is no training to go on with.
    pub fn is_adopted(&self) -> bool {
        self.config_hash == UNKNOWN_CONFIG
    }
}

impl RunDir {
    /// Makes a run of a model that was trained elsewhere: one checkpoint of `weights`, after no steps. The folder is
    /// written beside its final name and renamed when it is whole.
    ///
    /// # Errors
    /// A description that is impossible; a folder that holds something already; what the system refuses. Nothing is left
    /// behind then.
    pub fn adopt(
        path: &Path,
        model: ModelDescription,
        weights: BTreeMap<String, Tensor>,
    ) -> Result<(), TrainError> {
        if let Some(problem) = model.problem() {
            return Err(TrainError::unusable(path, problem));
        }
        if path.exists() && fs::read_dir(path).map_err(TrainError::io(path))?.next().is_some() {
            let problem = "this folder is not empty; choose another, nothing is overwritten";
            return Err(TrainError::unusable(path, problem));
        }
        if path.file_name().is_none() {
            return Err(TrainError::unusable(path, "this is not the name of a new folder"));
        }
        let partial = beside(path, ".partial-");
        let written = write_run(&partial, model, weights).and_then(|()| {
            if path.exists() {
                // Only an empty folder can be removed so.
                fs::remove_dir(path).map_err(TrainError::io(path))?;
            }
            fs::rename(&partial, path).map_err(TrainError::io(path))
        });
        if written.is_err() {
            // Best effort: the error that matters is the one being returned.
            let _ = fs::remove_dir_all(&partial);
        }
        written
    }
}

fn write_run(
    dir: &Path,
    model: ModelDescription,
    weights: BTreeMap<String, Tensor>,
) -> Result<(), TrainError> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(TrainError::io(dir))?;
    }
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
    let checkpoint = Checkpoint {
        state,
        model: weights.clone(),
        ema: weights,
        optimizer: BTreeMap::new(),
        loss_history: None,
    };
    checkpoint.write(&run.checkpoint_path(0))?;
    run.set_latest(0)
}

/// The network as a configuration has it, which says beside it that it learns a variance too, and is told classes.
fn network_alone(model: &ModelDescription) -> NetworkConfig {
    let network = model.network.with_classes(0, false);
    if model.learned_variance() { network.with_output_channels(model.image_shape[0]) } else { network }
}

/// A training that begins with the model tells it the classes that it knows.
fn conditional(model: &ModelDescription) -> Conditional {
    if model.classes.is_empty() { Conditional::Never } else { Conditional::Always }
}

/// The fields of a configuration that would train `model`.
pub(crate) fn fields_of(model: &ModelDescription) -> Result<Table, ConfigError> {
    let [_, height, width] = model.image_shape;
    let size = (height == width).then(|| toml::Value::try_from(height));
    let fields = [
        ("size", size),
        ("prediction_type", Some(toml::Value::try_from(model.prediction_type))),
        ("network", Some(toml::Value::try_from(network_alone(model)))),
        ("learned_variance", model.learned_variance().then(|| toml::Value::try_from(true))),
        ("conditional", (!model.classes.is_empty()).then(|| toml::Value::try_from(conditional(model)))),
        ("schedule", Some(toml::Value::try_from(&model.schedule))),
        ("edm", model.edm.map(toml::Value::try_from)),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    fields
        .map(|(name, value)| match value {
            Ok(value) => Ok((name.to_owned(), value)),
            Err(e) => Err(ConfigError::Text { place: format!("the model's {name}"), problem: e.to_string() }),
        })
        .collect()
}
