//! The training images of a model.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::ImageSet;
use crate::{EvalError, Memorisation, TrainingImages, spread};

/// The largest number of training images to search for copies of.
const MAX_IMAGES: usize = 10_000;
/// The largest number of values in those images: they are kept in memory twice.
const MAX_VALUES: usize = 1 << 27;
/// The largest number of generated images that are checked for copies.
pub(super) const MAX_CHECKED: usize = 2000;

/// The training images of a model and the validation images of its run.
#[derive(Clone, Debug)]
pub struct TrainingSet<S> {
    /// The training images.
    pub images: S,
    /// The validation images, which the run kept out of training.
    pub held_out: Option<S>,
    /// The source of the images; `None` for MNIST's training digits.
    pub path: Option<PathBuf>,
    /// Whether the model was also trained on their mirror images.
    pub mirrored: bool,
}

impl<S: ImageSet> TrainingSet<S> {
    /// Whether copies of the training images can be searched for: this needs at least 2, since a
    /// copy is much nearer to one of them than to the second nearest.
    pub(super) fn can_be_copied(&self) -> bool {
        self.images.len() > 1
    }

    /// Whether the images come from `path`. Paths are resolved, because a folder can have several
    /// names.
    pub(super) fn comes_from(&self, path: &Path) -> bool {
        let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        self.path.as_deref().is_some_and(|own| resolved(own) == resolved(path))
    }
}

/// A subset of the training images, in memory.
pub(super) struct TrainingSubset {
    pub(super) images: Tensor,
    /// The number of all training images; `images` are a subset.
    pub(super) all: usize,
    neighbours: TrainingImages,
}

impl TrainingSubset {
    /// Up to 10,000 images of `training`, fewer if they are large. `training` must have at least 2.
    pub(super) fn new<S: ImageSet>(
        training: &TrainingSet<S>,
        device: &Device,
    ) -> Result<Self, EvalError> {
        let most = MAX_IMAGES
            .min(MAX_VALUES / training.images.shape().iter().product::<usize>().max(1))
            .max(2);
        let chosen = training.images.limited(most)?;
        let images = chosen.images(0..chosen.len(), device)?;
        let neighbours = TrainingImages::new(&images, training.mirrored)?;
        Ok(Self { images, all: training.images.len(), neighbours })
    }

    /// The number of `images`.
    pub(super) fn count(&self) -> usize {
        self.images.dims()[0]
    }

    pub(super) fn mirrored(&self) -> bool {
        self.neighbours.mirrored()
    }

    /// How near generated `images` are to the training images, from at most 2,000 of `images`.
    pub(super) fn memorisation(&self, images: &Tensor) -> Result<Memorisation, EvalError> {
        self.neighbours.memorisation(&spread(images, MAX_CHECKED)?)
    }
}
