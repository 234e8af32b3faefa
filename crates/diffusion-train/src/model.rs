//! What a checkpoint says about its model, and the model ready for use.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use diffusion_process::{Network, PredictionType};
use diffusion_sample::Guidance;
use diffusion_schedule::{ScheduleConfig, ScheduleError};
use diffusion_unet::NetworkConfig;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointState;
use crate::{Checkpoint, EdmConfig, ModelClass, ModelDenoiser, Objective, TrainError};

/// Everything that sampling needs to know besides the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDescription {
    /// The network.
    pub network: NetworkConfig,
    /// The schedule it was trained on; flows and EDM do not use it.
    pub schedule: ScheduleConfig,
    /// What its output means; EDM does not use it.
    pub prediction_type: PredictionType,
    /// Its preconditioning, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edm: Option<EdmConfig>,
    /// The classes that the network is told of, in the order of its table; none: it knows no classes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ModelClass>,
    /// [C, H, W] of the images.
    pub image_shape: [usize; 3],
    /// The values that black and white have: [−1, 1].
    pub data_range: [f64; 2],
}

/// The values of black and white that this project trains with.
pub const DATA_RANGE: [f64; 2] = [-1.0, 1.0];

/// The largest side of an image; larger ones are a damaged file.
const MAX_SIDE: usize = 65_536;

impl ModelDescription {
    /// The process it was trained on.
    ///
    /// # Errors
    /// A schedule that cannot be built.
    pub fn objective(&self) -> Result<Objective, ScheduleError> {
        Objective::new(&self.schedule, self.prediction_type, self.edm)
    }

    /// How strongly images are pushed towards their class where nobody says: a little, which mends most of what a short training left
    /// wrong and costs little of the variety (docs/recipe.md has the figures); not at all where there is nothing to push away from.
    pub fn guidance(&self) -> Guidance {
        let possible = !self.classes.is_empty() && self.network.takes_no_class();
        Guidance::new(if possible { 1.1 } else { 1.0 })
    }

    /// Whether the second half of the network's output is a variance.
    pub fn learned_variance(&self) -> bool {
        self.network.output_channels() != self.network.image_channels()
    }

    /// Says what is impossible in a description that came from a file.
    pub(crate) fn problem(&self) -> Option<String> {
        let [channels, height, width] = self.image_shape;
        let multiple = self.network.size_multiple();
        let side = |side: usize| (1..=MAX_SIDE).contains(&side) && side.is_multiple_of(multiple);
        if channels != self.network.image_channels() || !side(height) || !side(width) {
            return Some(format!("image_shape is {:?}, which does not fit the network", self.image_shape));
        }
        let [input, output] = [channels, self.network.output_channels()];
        if output != input && output != 2 * input {
            return Some(format!(
                "the network gives {output} channels; it must be {input}, or twice as many"
            ));
        }
        if self.classes.len() != self.network.classes() {
            let [named, known] = [self.classes.len(), self.network.classes()];
            return Some(format!("it names {named} classes, and its network knows {known}"));
        }
        if let Some((field, value, expected)) = self.edm.and_then(|edm| edm.problem()) {
            return Some(format!("{field} is {value}; {expected}"));
        }
        if self.data_range != DATA_RANGE {
            return Some(format!(
                "data_range is {:?}; this program knows {DATA_RANGE:?} only",
                self.data_range
            ));
        }
        match self.objective() {
            Ok(objective) if self.learned_variance() && objective.schedule().is_none() => {
                Some(format!("it learned a variance, which {} has none of", objective.name()))
            }
            Ok(_) => None,
            Err(e) => Some(format!("schedule: {e}")),
        }
    }
}

/// Which weights of a checkpoint to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// The moving average: the better pictures.
    #[default]
    Ema,
    /// Those of the last step.
    Raw,
}

/// What the state of a checkpoint is called in the metadata of a single file.
const STATE: &str = "state";

/// A model from a checkpoint, for use without training.
pub struct LoadedModel {
    /// What it is.
    pub description: ModelDescription,
    /// The process it was trained on, which gives it sampling plans.
    pub objective: Objective,
    /// The network and the meaning of its output.
    pub denoiser: ModelDenoiser<Box<dyn Network + Send + Sync>>,
    /// Updates it was trained for.
    pub step: u64,
}

impl LoadedModel {
    /// The model in the checkpoint folder at `path`.
    ///
    /// # Errors
    /// A folder that is no checkpoint; a tensor that is missing, unknown or of another shape.
    pub fn open(path: &Path, weights: Weights, device: &Device) -> Result<Self, TrainError> {
        let state = Checkpoint::read_state(path)?;
        let file = path.join(match weights {
            Weights::Ema => Checkpoint::EMA_FILE,
            Weights::Raw => Checkpoint::MODEL_FILE,
        });
        let tensors = Checkpoint::read_tensors(&file, device)?;
        Self::assembled(state, tensors, &file, device)
    }

    /// The model in a single file, as [`packed`](Self::packed) makes it; `name` is for errors.
    ///
    /// # Errors
    /// Bytes that are no such file.
    pub fn unpacked(bytes: &[u8], name: &str, device: &Device) -> Result<Self, TrainError> {
        let file = Path::new(name);
        let unusable = |problem: String| TrainError::unusable(file, problem);
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| unusable(e.to_string()))?;
        let state = metadata.metadata().as_ref().and_then(|texts| texts.get(STATE));
        let state = state.ok_or_else(|| unusable(format!("its metadata has no `{STATE}`")))?;
        let state = Checkpoint::parse_state(state.as_bytes(), file)?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in candle_core::safetensors::load_buffer(bytes, device)? {
            tensors.insert(name, tensor.to_dtype(DType::F32)?);
        }
        Self::assembled(state, tensors, file, device)
    }

    /// The bytes of a single safetensors file with the averaged weights of the checkpoint folder at `path` in half precision, and its
    /// state as metadata.
    ///
    /// # Errors
    /// A folder that is no checkpoint.
    pub fn packed(path: &Path) -> Result<Vec<u8>, TrainError> {
        let state = Checkpoint::read_state(path)?;
        let file = path.join(Checkpoint::EMA_FILE);
        let unusable = |problem: String| TrainError::unusable(&file, problem);
        let mut halves = BTreeMap::new();
        for (name, tensor) in Checkpoint::read_tensors(&file, &Device::Cpu)? {
            halves.insert(name, tensor.to_dtype(DType::F16)?);
        }
        let state = serde_json::to_string(&state).map_err(|e| unusable(e.to_string()))?;
        let metadata = HashMap::from([(STATE.to_owned(), state)]);
        safetensors::serialize(&halves, Some(metadata)).map_err(|e| unusable(e.to_string()))
    }

    fn assembled(
        state: CheckpointState,
        tensors: BTreeMap<String, Tensor>,
        file: &Path,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let description = state.model;
        let objective = description.objective()?;
        let network = diffusion_unet::load_frozen(tensors, device, |vb| description.network.build(vb))
            .map_err(|source| TrainError::Parameters { path: file.to_owned(), source })?;
        let denoiser = objective.denoiser(network);
        Ok(Self { description, objective, denoiser, step: state.step })
    }
}
