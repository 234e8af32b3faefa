//! Reads and writes the folder of a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_files::{
    FileError, read_file, read_tensors, serialize_tensors, write_folder, write_synced,
};
use diffusion_model::ModelState;

use crate::{
    Checkpoint, CheckpointFile, CheckpointState, LossHistory, RestoreError, TrainError, Trainer,
};

impl Checkpoint {
    /// Writes the checkpoint as a folder at `path`.
    ///
    /// The folder is written beside its final name, synced, and renamed when it is complete, so a
    /// folder under its final name is always complete.
    ///
    /// # Errors
    /// An I/O error of the operating system, for example a full disk. Nothing is then left under
    /// the final name.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        write_folder(path, |folder| self.write_files(folder))
    }

    fn write_files(&self, folder: &Path) -> Result<(), TrainError> {
        let write = |file: CheckpointFile, tensors: &BTreeMap<String, Tensor>| {
            let path = folder.join(file.name());
            write_synced(&path, &serialize_tensors(tensors, &path)?)
        };
        write(CheckpointFile::Model, &self.model)?;
        write(CheckpointFile::Ema, &self.ema)?;
        write(CheckpointFile::Optimizer, &self.optimizer)?;
        if let Some(history) = &self.loss_history {
            write(CheckpointFile::LossHistory, &history.to_tensors()?)?;
        }
        if let Some(averages) = &self.averages {
            write(CheckpointFile::Averages, averages)?;
        }
        let path = folder.join(CheckpointFile::State.name());
        let json = serde_json::to_vec_pretty(&self.state)
            .map_err(|e| FileError::unusable(&path, format!("cannot be written: {e}")))?;
        Ok(write_synced(&path, &json)?)
    }

    /// Reads the checkpoint folder at `path`.
    ///
    /// # Errors
    /// If the folder is not a checkpoint of this format, or is damaged. The error names the file.
    pub fn read(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let tensors = |file: CheckpointFile| read_tensors(&path.join(file.name()), device);
        let history = path.join(CheckpointFile::LossHistory.name());
        let read_history = || {
            LossHistory::from_tensors(read_tensors(&history, &Device::Cpu)?)
                .map_err(|problem| FileError::unusable(&history, problem))
        };
        Ok(Self {
            averages: path
                .join(CheckpointFile::Averages.name())
                .exists()
                .then(|| tensors(CheckpointFile::Averages))
                .transpose()?,
            loss_history: history.exists().then(read_history).transpose()?,
            state: Self::read_state(path)?,
            model: tensors(CheckpointFile::Model)?,
            ema: tensors(CheckpointFile::Ema)?,
            optimizer: tensors(CheckpointFile::Optimizer)?,
        })
    }

    /// Reads only the state of the checkpoint folder at `path`, without the tensors.
    ///
    /// # Errors
    /// If the folder has no state; if it has another format version; if a field is missing, unknown
    /// or invalid.
    pub fn read_state(path: &Path) -> Result<CheckpointState, FileError> {
        ModelState::read(path)?;
        let file = path.join(CheckpointFile::State.name());
        serde_json::from_slice(&read_file(&file)?)
            .map_err(|e| FileError::unusable(&file, format!("not a checkpoint's state: {e}")))
    }

    /// Restores this checkpoint, read from the folder at `path`, into `trainer`.
    ///
    /// # Errors
    /// If the checkpoint has another network, configuration or data set, or is damaged. The error
    /// names the difference.
    pub fn restore_into(self, trainer: &mut Trainer, path: &Path) -> Result<(), TrainError> {
        trainer.restore(self).map_err(|e| match e {
            RestoreError::OtherData => TrainError::OtherData { path: path.to_owned() },
            RestoreError::Incompatible { file, problem } => {
                let file = file.map_or_else(|| path.to_owned(), |file| path.join(file.name()));
                FileError::unusable(&file, problem).into()
            }
        })
    }
}
