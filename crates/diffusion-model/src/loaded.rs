//! A model from a checkpoint or a packed file, ready for use.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use diffusion_files::{Described, FileError, read_file, read_tensors};
use diffusion_process::{Network, NetworkDenoiser};
use serde::{Deserialize, Serialize};

use crate::{ModelDescription, ModelError, Objective, RunLayout};

/// The form of a checkpoint's files. A reader refuses any other.
pub const FORMAT_VERSION: u32 = 1;

/// What `checkpoint.json` says of the model; what it says of the training besides is not read here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelState {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Updates that the model was trained for.
    pub step: u64,
    /// The model.
    pub model: ModelDescription,
}

impl ModelState {
    /// Its file in the folder of a checkpoint.
    pub const FILE: &str = "checkpoint.json";

    /// Reads the state in the folder of a checkpoint.
    ///
    /// # Errors
    /// A folder without one; another format version; fields that are missing or impossible.
    pub fn read(folder: &Path) -> Result<Self, FileError> {
        let file = folder.join(Self::FILE);
        if !file.exists() {
            let problem = format!("this is not a checkpoint: it holds no {}", Self::FILE);
            return Err(FileError::unusable(folder, problem));
        }
        Self::parse(&read_file(&file)?, &file)
    }

    /// The state that `json` describes; `file` is for errors.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(json: &[u8], file: &Path) -> Result<Self, FileError> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let damaged = |e: serde_json::Error| {
            FileError::unusable(file, format!("not a checkpoint's state: {e}"))
        };
        let Version { format_version } = serde_json::from_slice(json).map_err(damaged)?;
        if format_version != FORMAT_VERSION {
            let problem = format!(
                "format version {format_version}; this program reads version {FORMAT_VERSION}"
            );
            return Err(FileError::unusable(file, problem));
        }
        let state: Self = serde_json::from_slice(json).map_err(damaged)?;
        state.checked(file)
    }

    /// Itself, unless its model is impossible.
    fn checked(self, file: &Path) -> Result<Self, FileError> {
        match self.model.problem() {
            Some(problem) => Err(FileError::unusable(file, problem)),
            None => Ok(self),
        }
    }
}

/// Which weights of a checkpoint to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// The moving average: the better images.
    #[default]
    Ema,
    /// Those of the last step.
    Raw,
}

impl Weights {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ema, Self::Raw];

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ema => "ema",
            Self::Raw => "raw",
        }
    }

    /// Their file in the folder of a checkpoint.
    pub fn file(self) -> &'static str {
        match self {
            Self::Ema => "ema.safetensors",
            Self::Raw => "model.safetensors",
        }
    }
}

/// The key of the state in the metadata of a packed file.
const STATE: &str = "state";

/// A model for use without training.
pub struct LoadedModel {
    /// What it is.
    pub description: ModelDescription,
    /// The process it was trained on, which gives it sampling plans.
    pub objective: Objective,
    /// The network and the meaning of its output.
    pub denoiser: NetworkDenoiser<Box<dyn Network + Send + Sync>>,
    /// Updates it was trained for.
    pub step: u64,
    /// Where it computes.
    pub device: Device,
}

impl LoadedModel {
    /// The model at `path`: the folder of a run, of which the newest checkpoint is taken; the folder of a checkpoint; or a
    /// packed file, which has averaged weights only.
    ///
    /// # Errors
    /// Something else at `path`; a tensor that is missing, unknown or of another shape.
    pub fn open(path: &Path, weights: Weights, device: &Device) -> Result<Self, ModelError> {
        if path.is_file() {
            return Self::unpack(&read_file(path)?, path, device);
        }
        if !path.exists() {
            return Err(FileError::unusable(path, "there is no such file or folder").into());
        }
        let checkpoint = RunLayout::checkpoint_at(path)?;
        let state = ModelState::read(&checkpoint)?;
        let file = checkpoint.join(weights.file());
        let tensors = read_tensors(&file, device)?;
        Self::new(state.model, state.step, tensors, &file, device)
    }

    /// The model that `description` describes, with `tensors` for its parameters after `step` updates; `file` is for errors.
    ///
    /// # Errors
    /// A tensor that is missing, unknown or of another shape.
    pub fn new(
        description: ModelDescription,
        step: u64,
        tensors: BTreeMap<String, Tensor>,
        file: &Path,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let objective = description.objective()?;
        let network =
            diffusion_nn::load_frozen(tensors, device, |vb| description.network.build(vb))
                .map_err(|source| ModelError::Parameters { path: file.to_owned(), source })?;
        let denoiser = objective.denoiser(network);
        Ok(Self { description, objective, denoiser, step, device: device.clone() })
    }

    /// The model in the bytes of a packed file, as [`pack`](Self::pack) makes it; `name` is for errors.
    ///
    /// # Errors
    /// Bytes that are no such file.
    pub fn unpack(bytes: &[u8], name: &Path, device: &Device) -> Result<Self, ModelError> {
        let Described { description: state, mut tensors } =
            Described::<ModelState>::from_bytes(bytes, STATE, "packed model", name, device)?;
        let state = state.checked(name)?;
        for tensor in tensors.values_mut() {
            *tensor = tensor.to_dtype(DType::F32)?;
        }
        Self::new(state.model, state.step, tensors, name, device)
    }

    /// The bytes of a single safetensors file with the averaged weights of a checkpoint's folder in half precision, and its
    /// state as metadata.
    ///
    /// # Errors
    /// A folder that is no checkpoint.
    pub fn pack(checkpoint: &Path) -> Result<Vec<u8>, ModelError> {
        let description = ModelState::read(checkpoint)?;
        let mut tensors = read_tensors(&checkpoint.join(Weights::Ema.file()), &Device::Cpu)?;
        for tensor in tensors.values_mut() {
            *tensor = tensor.to_dtype(DType::F16)?;
        }
        Ok(Described { description, tensors }.to_bytes(STATE, checkpoint)?)
    }
}
