//! Which images generated ones are compared with.

use std::path::Path;

use super::{ImageSet, TrainingSet};
use crate::{EvalError, FeatureNetwork, Reference};

/// Where reference images come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceChoice {
    /// MNIST's 10,000 test digits, whose features come with the digit judge.
    Mnist,
    /// A set that the caller names: see [`ReferenceSet::new`].
    Named,
    /// The run of the model: see [`ReferenceSet::of_run`].
    Run,
}

impl ReferenceChoice {
    /// What images of `shape` are compared with by `network`, if they come from a model that was trained on
    /// `training`.
    ///
    /// Default: MNIST's test digits for the digit judge, if the training images are unknown or digits of
    /// MNIST; otherwise the images of the run. `None`: the network makes no features of such images, and only
    /// copies of training images can be looked for.
    ///
    /// # Errors
    /// [`EvalError::NoFeatures`]: a reference was asked for that nothing can be compared with, or no copies
    /// can be looked for either; [`EvalError::NoImagesOfMnist`].
    pub fn new<S: ImageSet>(
        requested: Option<Self>,
        network: FeatureNetwork,
        shape: [usize; 3],
        training: Option<&TrainingSet<S>>,
    ) -> Result<Option<Self>, EvalError> {
        if !network.accepts(shape) {
            if requested.is_none() && training.is_some_and(TrainingSet::can_be_copied) {
                return Ok(None);
            }
            return Err(EvalError::NoFeatures { shape });
        }
        let of_digits = training.is_none_or(|training| training.path.is_none());
        let default = match network {
            FeatureNetwork::DigitJudge if of_digits => Self::Mnist,
            _ => Self::Run,
        };
        match requested.unwrap_or(default) {
            Self::Mnist if network == FeatureNetwork::Inception => Err(EvalError::NoImagesOfMnist),
            choice => Ok(Some(choice)),
        }
    }
}

/// Images that generated ones are compared with.
#[derive(Clone, Debug)]
pub struct ReferenceSet<S> {
    /// The images.
    pub images: S,
    /// What they are.
    pub name: String,
    /// Whether images that the model was trained on are among them: those are not compared with them then.
    pub circular: bool,
}

impl<S: ImageSet> ReferenceSet<S> {
    /// The `images` of `path`, for images of `shape` by a model that was trained on `training`.
    ///
    /// # Errors
    /// [`EvalError::ReferenceShape`].
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

    /// The images that the run of a model kept out of training, or if they are fewer than 6, those that it
    /// was trained on.
    ///
    /// # Errors
    /// [`EvalError::NoReference`]: they are not known.
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
