//! A trained classifier of noisy images, and its file format.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_files::{DescribedTensors, FileError};
use diffusion_nn::load_frozen;
use diffusion_unet::{NoisyClassifier, NoisyClassifierConfig};
use serde::{Deserialize, Serialize};

use crate::{ModelClass, ModelError};

/// The description in a classifier's file, next to the weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierDescription {
    /// The configuration of the network.
    pub network: NoisyClassifierConfig,
    /// The classes in the order of the logits.
    pub classes: Vec<ModelClass>,
    /// The shape (C, H, W) of the images.
    pub image_shape: [usize; 3],
    /// The number of training updates.
    pub step: u64,
}

/// A trained classifier of noisy images.
pub struct LoadedClassifier {
    /// The description of the classifier.
    pub description: ClassifierDescription,
    /// The network with the EMA weights.
    pub network: NoisyClassifier,
    weights: BTreeMap<String, Tensor>,
}

/// The key of the description in the metadata of a file.
const DESCRIPTION: &str = "noisy_classifier";

impl LoadedClassifier {
    /// Builds the classifier of `description` with the given `weights`. `path` is only used in
    /// errors.
    ///
    /// # Errors
    /// If a tensor is missing, unknown or of the wrong shape.
    pub fn new(
        description: ClassifierDescription,
        weights: BTreeMap<String, Tensor>,
        path: &Path,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let network = load_frozen(weights.clone(), device, |vb| {
            NoisyClassifier::new(&description.network, vb)
        })
        .map_err(|source| ModelError::Parameters { path: path.to_owned(), source })?;
        Ok(Self { description, network, weights })
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If the file was not written by [`write`](Self::write), or is damaged.
    pub fn open(path: &Path, device: &Device) -> Result<Self, ModelError> {
        let DescribedTensors { description, tensors } =
            DescribedTensors::<ClassifierDescription>::read(
                path,
                DESCRIPTION,
                "classifier of noisy images",
                device,
            )?;
        let [listed, expected] = [description.classes.len(), description.network.classes];
        let [channels, expected_channels] =
            [description.image_shape[0], description.network.in_channels];
        if listed != expected || channels != expected_channels {
            let problem = format!(
                "the description lists {listed} classes and images of {channels} channels, \
                 but the network has {expected} classes and {expected_channels} channels"
            );
            return Err(FileError::unusable(path, problem).into());
        }
        Self::new(description, tensors, path, device)
    }

    /// Writes the classifier to one safetensors file at `path`.
    ///
    /// # Errors
    /// If the file cannot be written. An existing file then stays unchanged.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let (description, tensors) = (self.description.clone(), self.weights.clone());
        Ok(DescribedTensors { description, tensors }.write(DESCRIPTION, path)?)
    }
}
