//! A classifier of noisy images, ready for use, and its file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_files::{Described, FileError};
use diffusion_nn::load_frozen;
use diffusion_unet::{NoisyClassifier, NoisyClassifierConfig};
use serde::{Deserialize, Serialize};

use crate::{ModelClass, ModelError};

/// What the file of a classifier holds besides the weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierDescription {
    /// The network.
    pub network: NoisyClassifierConfig,
    /// The classes in the order of its logits.
    pub classes: Vec<ModelClass>,
    /// [C, H, W] of the images.
    pub image_shape: [usize; 3],
    /// Updates it was trained for.
    pub step: u64,
}

/// A classifier of noisy images.
pub struct LoadedClassifier {
    /// What it is.
    pub description: ClassifierDescription,
    /// The network, with the averaged weights.
    pub network: NoisyClassifier,
    weights: BTreeMap<String, Tensor>,
}

/// The key of the description in the metadata of a file.
const DESCRIPTION: &str = "noisy_classifier";

impl LoadedClassifier {
    /// The classifier that `description` describes, with `weights` for its parameters; `path` is for errors.
    ///
    /// # Errors
    /// A tensor that is missing, unknown or of another shape.
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
    /// A file that [`write`](Self::write) did not write, or that is damaged.
    pub fn open(path: &Path, device: &Device) -> Result<Self, ModelError> {
        let Described { description, tensors } = Described::<ClassifierDescription>::read(
            path,
            DESCRIPTION,
            "classifier of noisy images",
            device,
        )?;
        let [named, known] = [description.classes.len(), description.network.classes];
        if named != known || description.network.in_channels != description.image_shape[0] {
            return Err(FileError::unusable(path, "its description contradicts itself").into());
        }
        Self::new(description, tensors, path, device)
    }

    /// Writes it to one safetensors file at `path`.
    ///
    /// # Errors
    /// A file that cannot be written; the previous one, if any, stays as it was.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let (description, tensors) = (self.description.clone(), self.weights.clone());
        Ok(Described { description, tensors }.write(DESCRIPTION, path)?)
    }
}
