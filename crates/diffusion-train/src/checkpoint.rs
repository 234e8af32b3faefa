//! A training at rest: files of tensors and a description.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use diffusion_data::LoaderPosition;
use serde::{Deserialize, Serialize};

use crate::{LossHistory, ModelDescription, TrainError};

/// The form of the files. A reader refuses any other.
pub const FORMAT_VERSION: u32 = 1;

/// `checkpoint.json`: everything but the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointState {
    /// [`FORMAT_VERSION`] of the writer.
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

impl Checkpoint {
    /// The weights.
    pub const MODEL_FILE: &str = "model.safetensors";
    /// Their moving average.
    pub const EMA_FILE: &str = "ema.safetensors";
    /// The optimizer's moments.
    pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
    /// The losses that importance sampling goes by, where it is used.
    pub const LOSS_HISTORY_FILE: &str = "loss_history.safetensors";
    /// Everything else.
    pub const STATE_FILE: &str = "checkpoint.json";

    /// Writes a folder at `path`. It is written beside its final name, synced, and renamed when it is whole, so a
    /// folder under its final name is always complete.
    ///
    /// # Errors
    /// What the system refuses, a full disk for one; then nothing is left under the final name.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let partial = beside(path, ".partial-");
        let written = self.write_files(&partial).and_then(|()| {
            // A process killed between the rename and `latest` leaves this step's folder behind.
            if path.exists() {
                remove_folder(path)?;
            }
            fs::rename(&partial, path).map_err(TrainError::io(path))?;
            sync_folder(path.parent())
        });
        if written.is_err() {
            // Best effort: the error that matters is the one being returned.
            let _ = fs::remove_dir_all(&partial);
        }
        written
    }

    fn write_files(&self, dir: &Path) -> Result<(), TrainError> {
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(TrainError::io(dir))?;
        }
        fs::create_dir_all(dir).map_err(TrainError::io(dir))?;
        let write = |name: &str, tensors: &BTreeMap<String, Tensor>| {
            let path = dir.join(name);
            let bytes = safetensors::serialize(tensors, None)
                .map_err(|e| TrainError::unusable(&path, format!("cannot be written: {e}")))?;
            write_synced(&path, &bytes)
        };
        write(Self::MODEL_FILE, &self.model)?;
        write(Self::EMA_FILE, &self.ema)?;
        write(Self::OPTIMIZER_FILE, &self.optimizer)?;
        if let Some(history) = &self.loss_history {
            write(Self::LOSS_HISTORY_FILE, &history.to_tensors()?)?;
        }
        let path = dir.join(Self::STATE_FILE);
        let json = serde_json::to_vec_pretty(&self.state)
            .map_err(|e| TrainError::unusable(&path, format!("cannot be written: {e}")))?;
        write_synced(&path, &json)?;
        sync_folder(Some(dir))
    }

    /// Reads the folder at `path`.
    ///
    /// # Errors
    /// A folder that is no checkpoint of this format, or that is damaged; the file is named.
    pub fn read(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let tensors = |name| Self::read_tensors(&path.join(name), device);
        let history = path.join(Self::LOSS_HISTORY_FILE);
        let read_history = || {
            LossHistory::from_tensors(Self::read_tensors(&history, &Device::Cpu)?)
                .map_err(|problem| TrainError::unusable(&history, problem))
        };
        Ok(Self {
            loss_history: history.exists().then(read_history).transpose()?,
            state: Self::read_state(path)?,
            model: tensors(Self::MODEL_FILE)?,
            ema: tensors(Self::EMA_FILE)?,
            optimizer: tensors(Self::OPTIMIZER_FILE)?,
        })
    }

    /// Reads the description in the folder at `path` and nothing else.
    ///
    /// # Errors
    /// A folder without one; another format version; fields that are missing, unknown or impossible.
    pub fn read_state(path: &Path) -> Result<CheckpointState, TrainError> {
        let file = path.join(Self::STATE_FILE);
        if !file.exists() {
            return Err(TrainError::unusable(
                path,
                format!("this is not a checkpoint: it holds no {}", Self::STATE_FILE),
            ));
        }
        let json = fs::read(&file).map_err(TrainError::io(&file))?;
        Self::parse_state(&json, &file)
    }

    /// The state that `json`, which was read from `file`, says.
    pub(crate) fn parse_state(json: &[u8], file: &Path) -> Result<CheckpointState, TrainError> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let damaged =
            |e: serde_json::Error| TrainError::unusable(file, format!("not a checkpoint's state: {e}"));
        let Version { format_version } = serde_json::from_slice(json).map_err(damaged)?;
        if format_version != FORMAT_VERSION {
            return Err(TrainError::unusable(
                file,
                format!("format version {format_version}; this program reads version {FORMAT_VERSION}"),
            ));
        }
        let state: CheckpointState = serde_json::from_slice(json).map_err(damaged)?;
        match state.model.problem() {
            Some(problem) => Err(TrainError::unusable(file, problem)),
            None => Ok(state),
        }
    }

    /// Reads the tensors in the file at `path`.
    ///
    /// # Errors
    /// A file that does not exist or is not a whole safetensors file.
    pub fn read_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let bytes = fs::read(path).map_err(TrainError::io(path))?;
        safetensors::SafeTensors::deserialize(&bytes)
            .map_err(|e| TrainError::unusable(path, format!("not a whole safetensors file: {e}")))?;
        Ok(candle_core::safetensors::load_buffer(&bytes, device)?.into_iter().collect())
    }
}

/// Writes `latest`-like small files: beside, synced, renamed.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let partial = beside(path, ".partial-");
    write_synced(&partial, bytes)?;
    fs::rename(&partial, path).map_err(TrainError::io(path))?;
    sync_folder(path.parent())
}

/// Removes a folder so that it is never seen half empty under its own name.
pub(crate) fn remove_folder(path: &Path) -> Result<(), TrainError> {
    let removed = beside(path, ".removed-");
    fs::rename(path, &removed).map_err(TrainError::io(path))?;
    fs::remove_dir_all(&removed).map_err(TrainError::io(&removed))
}

/// Whether a name is that of something unfinished, left behind by a process that was killed.
pub(crate) fn is_leftover(name: &str) -> bool {
    name.starts_with(".partial-") || name.starts_with(".removed-")
}

/// The name for something unfinished that will be renamed to `path`, or was.
pub(crate) fn beside(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{prefix}{name}"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut file = File::create(path).map_err(TrainError::io(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(TrainError::io(path))
}

/// Makes a rename inside `dir` last through a power cut, on systems where a folder can be synced.
fn sync_folder(dir: Option<&Path>) -> Result<(), TrainError> {
    #[cfg(unix)]
    if let Some(dir) = dir {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir).and_then(|f| f.sync_all()).map_err(TrainError::io(dir))?;
    }
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}
