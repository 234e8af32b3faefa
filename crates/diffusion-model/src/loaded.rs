//! Loading a model from a checkpoint or a packed file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use diffusion_files::{DescribedTensors, FileError, read_file, read_tensors};
use diffusion_process::{Network, NetworkDenoiser};
use serde::{Deserialize, Serialize};

use crate::{ModelDescription, ModelError, Objective, RunLayout, SamplingMethod};

/// The format version of a checkpoint's files. Other versions are rejected.
pub const FORMAT_VERSION: u32 = 1;

/// The fields of `checkpoint.json` that describe the model. The fields about the training are
/// ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelState {
    /// The [`FORMAT_VERSION`] with which the file was written.
    pub format_version: u32,
    /// The number of training updates.
    pub step: u64,
    /// The description of the model.
    pub model: ModelDescription,
}

impl ModelState {
    /// The name of the file in the folder of a checkpoint.
    pub const FILE: &str = "checkpoint.json";
    /// The name of the scheduler in that folder, unchanged, if the model was imported with one.
    pub const SCHEDULER: &str = "scheduler_config.json";

    /// Reads the state in the folder of a checkpoint.
    ///
    /// # Errors
    /// If the folder has no `checkpoint.json`, if the format version differs, or if a field is
    /// missing or invalid. Also an I/O error of the operating system.
    pub fn read(folder: &Path) -> Result<Self, FileError> {
        let file = folder.join(Self::FILE);
        if !file.exists() {
            let problem = format!("this is not a checkpoint: {} is missing", Self::FILE);
            return Err(FileError::unusable(folder, problem));
        }
        let json = read_file(&file)?;
        if json.is_empty() {
            return Err(FileError::unusable(&file, "the file is empty"));
        }
        Self::parse(&json, &file)
    }

    /// Parses the state in `json`. `file` is only used in errors.
    ///
    /// # Errors
    /// If the format version differs, or if a field is missing or invalid.
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
        state.validated(file)
    }

    /// Returns `self` if the description of the model is valid.
    fn validated(self, file: &Path) -> Result<Self, FileError> {
        match self.model.problem() {
            Some(problem) => Err(FileError::unusable(file, problem)),
            None => Ok(self),
        }
    }
}

/// Which weights of a checkpoint to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// The moving average (EMA), which gives better images. Default.
    #[default]
    Ema,
    /// The weights of the last training step.
    Raw,
}

impl Weights {
    /// Both variants.
    pub const ALL: [Self; 2] = [Self::Ema, Self::Raw];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ema => "ema",
            Self::Raw => "raw",
        }
    }

    /// The name of the file in the folder of a checkpoint.
    pub fn file(self) -> &'static str {
        match self {
            Self::Ema => "ema.safetensors",
            Self::Raw => "model.safetensors",
        }
    }
}

/// The key of the state in the metadata of a packed file.
const STATE: &str = "state";

/// A trained model, ready for sampling.
pub struct LoadedModel {
    /// The description of the model.
    pub description: ModelDescription,
    /// The process that the model was trained on. It makes the sampling plans.
    pub objective: Objective,
    /// The network with the parametrisation of its output.
    pub denoiser: NetworkDenoiser<Box<dyn Network + Send + Sync>>,
    /// The number of training updates.
    pub step: u64,
    /// The device of the weights.
    pub device: Device,
    /// The sampling method that the model came with. `None`: it is sampled as its
    /// [`objective`](Self::objective) suggests.
    pub method: Option<Arc<dyn SamplingMethod>>,
}

impl LoadedModel {
    /// Loads the model at `path`: the newest checkpoint of a run folder, a checkpoint folder, or a
    /// packed file. A packed file contains only EMA weights, whatever `weights` is.
    ///
    /// # Errors
    /// If there is nothing at `path`, or no model, or if a tensor is missing, unknown or of the
    /// wrong shape. Also an I/O error of the operating system.
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

    /// Builds the model of `description` with the parameters in `tensors`, after `step` training
    /// updates. `file` is only used in errors.
    ///
    /// # Errors
    /// If the schedule is invalid, or if a tensor is missing, unknown or of the wrong shape.
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
        let device = device.clone();
        Ok(Self { description, objective, denoiser, step, device, method: None })
    }

    /// Reads the model from the bytes of a packed file, as [`pack`](Self::pack) writes it. `name`
    /// is only used in errors.
    ///
    /// # Errors
    /// If the bytes are not a packed model.
    pub fn unpack(bytes: &[u8], name: &Path, device: &Device) -> Result<Self, ModelError> {
        let DescribedTensors { description: state, mut tensors } =
            DescribedTensors::<ModelState>::from_bytes(bytes, STATE, "packed model", name, device)?;
        let state = state.validated(name)?;
        for tensor in tensors.values_mut() {
            *tensor = tensor.to_dtype(DType::F32)?;
        }
        Self::new(state.model, state.step, tensors, name, device)
    }

    /// Packs a checkpoint into the bytes of one safetensors file: the EMA weights in half
    /// precision, with the state as metadata.
    ///
    /// # Errors
    /// If the folder is not a checkpoint. Also an I/O error of the operating system.
    pub fn pack(checkpoint: &Path) -> Result<Vec<u8>, ModelError> {
        let state = ModelState::read(checkpoint)?;
        let weights = read_tensors(&checkpoint.join(Weights::Ema.file()), &Device::Cpu)?;
        Self::pack_weights(state, weights, checkpoint)
    }

    /// Packs `weights` into the bytes of one safetensors file, in half precision, with `state` as
    /// metadata. `path` is only used in errors.
    ///
    /// # Errors
    /// If the tensors cannot be written as a safetensors file.
    pub fn pack_weights(
        state: ModelState,
        mut weights: BTreeMap<String, Tensor>,
        path: &Path,
    ) -> Result<Vec<u8>, ModelError> {
        for weight in weights.values_mut() {
            *weight = weight.to_dtype(DType::F16)?;
        }
        let packed = DescribedTensors { description: state, tensors: weights };
        Ok(packed.to_bytes(STATE, path)?)
    }
}
