//! The start of a training: random weights, or the weights of another model.

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
    /// If the configuration is invalid or does not fit the data.
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

/// Replaces the random weights of `trainer` by the EMA weights of the checkpoint folder at `path`.
///
/// Classes are matched by name. The optimiser and the moving average start anew.
///
/// # Errors
/// If the folder is not a checkpoint; if its model is class-conditional and the training is not;
/// if a tensor is missing, unknown or has another shape than the training's network needs.
pub fn start_from(trainer: &mut Trainer, path: &Path) -> Result<(), TrainError> {
    let file = path.join(Weights::Ema.file());
    let mut weights = read_tensors(&file, trainer.device())?;
    let (origin, target) = (ModelState::read(path)?.model, trainer.description());
    if target.classes.is_empty() && !origin.classes.is_empty() {
        return Err(TrainError::ClassesMissing { path: path.to_owned() });
    }
    if let Some(table) = trainer.parameters().tensors().get(NetworkConfig::CLASS_TABLE) {
        let table = match weights.get(NetworkConfig::CLASS_TABLE) {
            Some(source) => table_by_name(source, &origin, target)?,
            // A network that was unconditional so far starts by ignoring the classes.
            None => table.zeros_like()?,
        };
        weights.insert(NetworkConfig::CLASS_TABLE.to_owned(), table);
    }
    match trainer.parameters().tensors().get(NetworkConfig::AUGMENTATION) {
        // A network that was trained without augmentation starts by ignoring it.
        Some(layer) if !weights.contains_key(NetworkConfig::AUGMENTATION) => {
            weights.insert(NetworkConfig::AUGMENTATION.to_owned(), layer.zeros_like()?);
        }
        Some(_) => {}
        None => drop(weights.remove(NetworkConfig::AUGMENTATION)),
    }
    trainer.start_with(&weights).map_err(|source| TrainError::Parameters { path: file, source })
}

/// The class table of `target`, with the rows of `source` for classes of the same name.
///
/// `source` is the table of the model `origin`. Other classes start with its unconditional row, or
/// with zeros if it has none.
fn table_by_name(
    source: &Tensor,
    origin: &ModelDescription,
    target: &ModelDescription,
) -> candle_core::Result<Tensor> {
    let unconditional = if origin.network.supports_unconditional() {
        source.narrow(0, origin.classes.len(), 1)?
    } else {
        source.narrow(0, 0, 1)?.zeros_like()?
    };
    let row =
        |class: &ModelClass| match origin.classes.iter().position(|other| other.name == class.name)
        {
            Some(row) => source.narrow(0, row, 1),
            None => Ok(unconditional.clone()),
        };
    let mut rows = target.classes.iter().map(row).collect::<candle_core::Result<Vec<_>>>()?;
    if target.network.supports_unconditional() {
        rows.push(unconditional.clone());
    }
    Tensor::cat(&rows, 0)
}
