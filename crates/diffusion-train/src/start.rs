//! A training at its beginning: with random weights, or with those of another model.

use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_data::ImageDataset;
use diffusion_files::read_tensors;
use diffusion_model::{ModelClass, ModelDescription, ModelState, Weights};
use diffusion_unet::NetworkConfig;

use crate::{ConfigError, TrainConfig, TrainError, Trainer, TrainingModel};

impl TrainConfig {
    /// A training of this configuration on `dataset`, with random weights.
    ///
    /// # Errors
    /// A configuration that cannot be trained, by itself or on this data.
    pub fn trainer(&self, dataset: &ImageDataset, device: &Device) -> Result<Trainer, TrainError> {
        self.validate()?;
        let description = self.describe(dataset)?;
        let (network, parameters) =
            description.network.initialise(self.seed, device).map_err(|e| ConfigError::Text {
                place: "network".to_owned(),
                problem: e.to_string(),
            })?;
        Trainer::new(self, TrainingModel { description, network, parameters }, dataset, device)
    }
}

/// Gives `trainer` the averaged weights of the checkpoint folder at `path` in place of random ones. Classes are matched by
/// name; optimizer and moving average begin anew.
///
/// # Errors
/// A folder that is no checkpoint; a tensor that is missing, unknown or of another shape than the training's network needs.
pub fn start_from(trainer: &mut Trainer, path: &Path) -> Result<(), TrainError> {
    let file = path.join(Weights::Ema.file());
    let mut weights = read_tensors(&file, trainer.device())?;
    let (origin, target) = (ModelState::read(path)?.model, trainer.description());
    if target.classes.is_empty() && !origin.classes.is_empty() {
        return Err(TrainError::ClassesMissing { path: path.to_owned() });
    }
    if let Some(table) = trainer.parameters().tensors().get(NetworkConfig::CLASS_TABLE) {
        let table = match weights.get(NetworkConfig::CLASS_TABLE) {
            Some(known) => table_by_name(known, &origin, target)?,
            // A network that is told classes for the first time begins by ignoring them.
            None => table.zeros_like()?,
        };
        weights.insert(NetworkConfig::CLASS_TABLE.to_owned(), table);
    }
    trainer.start_with(&weights).map_err(|source| TrainError::Parameters { path: file, source })
}

/// The vectors that `known`, the table of the model `origin`, has for classes of the names of `target`; others begin as the
/// unconditional one does, or with zeros.
fn table_by_name(
    known: &Tensor,
    origin: &ModelDescription,
    target: &ModelDescription,
) -> candle_core::Result<Tensor> {
    let none = if origin.network.takes_no_class() {
        known.narrow(0, origin.classes.len(), 1)?
    } else {
        known.narrow(0, 0, 1)?.zeros_like()?
    };
    let row =
        |class: &ModelClass| match origin.classes.iter().position(|other| other.name == class.name)
        {
            Some(row) => known.narrow(0, row, 1),
            None => Ok(none.clone()),
        };
    let mut rows = target.classes.iter().map(row).collect::<candle_core::Result<Vec<_>>>()?;
    if target.network.takes_no_class() {
        rows.push(none.clone());
    }
    Tensor::cat(&rows, 0)
}
