//! The images that a model was trained on.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::ImageSet;
use crate::{EvalError, Memorisation, TrainingImages, spread};

/// Training images among which copies are looked for, at most.
const IMAGES: usize = 10_000;
/// Numbers in those images, at most: they are kept in memory twice.
const VALUES: usize = 1 << 27;
/// Generated images of which it is found out whether they are copies, at most.
pub(super) const CHECKED: usize = 2000;

/// The images that a model was trained on, and others of their kind.
#[derive(Clone, Debug)]
pub struct TrainingSet<S> {
    /// Those that it was trained on.
    pub images: S,
    /// Those that its run kept out of training.
    pub held_out: Option<S>,
    /// Where they come from; `None`: they are training digits of MNIST.
    pub path: Option<PathBuf>,
    /// Whether it was trained on their mirror images as well.
    pub mirrored: bool,
}

impl<S: ImageSet> TrainingSet<S> {
    /// Whether copies of them can be looked for: an image is a copy if it is nearer to one of them than to
    /// any second one.
    pub(super) fn can_be_copied(&self) -> bool {
        self.images.len() > 1
    }

    /// Whether they come from `path`. One folder may have several names, which are looked up.
    pub(super) fn comes_from(&self, path: &Path) -> bool {
        let place = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        self.path.as_deref().is_some_and(|own| place(own) == place(path))
    }
}

/// Some of the training images, in memory.
pub(super) struct KnownImages {
    pub(super) images: Tensor,
    /// All there are; `images` are some of them.
    pub(super) all: usize,
    neighbours: TrainingImages,
}

impl KnownImages {
    /// Up to 10,000 images of `training`, fewer if they are large. At least 2 must be there.
    pub(super) fn new<S: ImageSet>(
        training: &TrainingSet<S>,
        device: &Device,
    ) -> Result<Self, EvalError> {
        let most =
            IMAGES.min(VALUES / training.images.shape().iter().product::<usize>().max(1)).max(2);
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

    /// How near generated `images` come to these, of at most 2,000 of them.
    pub(super) fn memorisation(&self, images: &Tensor) -> Result<Memorisation, EvalError> {
        self.neighbours.memorisation(&spread(images, CHECKED)?)
    }
}
