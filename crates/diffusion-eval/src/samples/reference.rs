//! The reference images that generated images are compared with.

use std::path::Path;

use super::{ImageSet, TrainingSet};
use crate::{EvalError, FeatureExtractor, Reference};

/// The source of the reference images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceChoice {
    /// The images whose features are in the judge's file: for the digit judge, MNIST's 10,000 test
    /// digits.
    Mnist,
    /// A set of images given by the caller: see [`ReferenceSet::new`].
    Named,
    /// The validation or training images of the model's run: see [`ReferenceSet::of_run`].
    Run,
}

impl ReferenceChoice {
    /// The source of the reference for images of `shape` (C, H, W). `training` are the images that
    /// the model was trained on.
    ///
    /// Default, if `requested` is `None`: MNIST's test digits for the digit judge, if the training
    /// images are unknown or digits of MNIST; otherwise the images of the run. Returns `None` if
    /// `network` cannot read images of `shape`: only copies of training images can be searched for.
    ///
    /// # Errors
    /// Fails with [`EvalError::NoFeatures`] if `network` cannot read images of `shape` and a
    /// reference was requested or copies cannot be searched for. Fails with
    /// [`EvalError::NoImagesOfMnist`] if MNIST was requested for a network without its features.
    pub fn new<S: ImageSet>(
        requested: Option<Self>,
        network: &FeatureExtractor,
        shape: [usize; 3],
        training: Option<&TrainingSet<S>>,
    ) -> Result<Option<Self>, EvalError> {
        if let Err(error) = network.check_shape(shape) {
            let can_search = training.is_some_and(TrainingSet::can_be_copied);
            return if requested.is_none() && can_search { Ok(None) } else { Err(error) };
        }
        let of_digits = training.is_none_or(|training| training.path.is_none());
        let has_own = network.judge().is_some_and(|judge| judge.reference().is_some());
        let default = if has_own && of_digits { Self::Mnist } else { Self::Run };
        match requested.unwrap_or(default) {
            Self::Mnist if !has_own => Err(EvalError::NoImagesOfMnist),
            choice => Ok(Some(choice)),
        }
    }
}

/// The reference images that generated images are compared with.
#[derive(Clone, Debug)]
pub struct ReferenceSet<S> {
    /// The images.
    pub images: S,
    /// A description of the images.
    pub name: String,
    /// Whether the reference includes training images of the model. If so, training images are not
    /// evaluated for comparison.
    pub circular: bool,
}

impl<S: ImageSet> ReferenceSet<S> {
    /// The `images` of `path` as the reference for generated images of `shape` (C, H, W).
    /// `training` are the images that the model was trained on.
    ///
    /// # Errors
    /// Fails with [`EvalError::ReferenceShape`] if the images do not have `shape`.
    pub fn new(
        images: S,
        path: &Path,
        shape: [usize; 3],
        training: Option<&TrainingSet<S>>,
    ) -> Result<Self, EvalError> {
        if images.shape() != shape {
            return Err(EvalError::ReferenceShape { found: images.shape(), expected: shape });
        }
        let circular = training.is_some_and(|training| training.comes_from(path));
        Ok(Self { images, name: format!("the pictures of {}", path.display()), circular })
    }

    /// The validation images of the model's run, or its training images if there are fewer than 6
    /// validation images.
    ///
    /// # Errors
    /// Fails with [`EvalError::NoReference`] if `training` is `None`.
    pub fn of_run(training: Option<&TrainingSet<S>>) -> Result<Self, EvalError> {
        let Some(TrainingSet { images, held_out, .. }) = training else {
            return Err(EvalError::NoReference);
        };
        let held_out = held_out.as_ref().filter(|images| images.len() >= Reference::SMALLEST);
        let (images, name) = match held_out {
            Some(held_out) => (held_out, "the pictures that the run kept out of training"),
            None => (images, "the pictures that the model was trained on"),
        };
        Ok(Self { images: images.clone(), name: name.to_owned(), circular: held_out.is_none() })
    }
}
