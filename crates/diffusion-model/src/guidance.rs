//! Guidance as data: what steers the images of a model.

use candle_core::Tensor;
use diffusion_process::{Conditioned, Denoiser, Threshold, Thresholded};
use diffusion_sample::edit::EditError;
use diffusion_sample::{AfterReference, Autoguided, ClassifierFree, ClassifierGuided, Guidance};
use thiserror::Error;

use crate::{LoadedClassifier, LoadedModel, ModelClass, ModelDescription};

/// What the images of a model are steered by.
#[derive(Default)]
pub struct GuidanceConfig {
    /// How strongly.
    pub guidance: Guidance,
    /// Away from what, or towards what.
    pub method: GuidanceMethod,
    /// A picture whose large shapes the images get.
    pub reference: Option<Reference>,
}

/// Where the second estimate of guidance comes from.
#[derive(Default)]
pub enum GuidanceMethod {
    /// From the model itself, without a class (Ho & Salimans 2022).
    #[default]
    ClassifierFree,
    /// From a weaker model of the same images (Karras et al. 2024).
    Autoguidance(Box<LoadedModel>),
    /// From a classifier of noisy images (Dhariwal & Nichol 2021).
    Classifier(Box<LoadedClassifier>),
}

/// A picture whose low frequencies the images get (Choi et al. 2021).
pub struct Reference {
    /// (1, C, H, W), of the model's shape.
    pub picture: Tensor,
    /// How small it is made before it is compared, as a divisor of its sides, at least 1.
    pub factor: f64,
}

/// Why a model cannot be guided so.
#[derive(Debug, Error)]
pub enum GuidanceError {
    /// A classifier of images of another shape.
    #[error(
        "it reads images of {found:?}, the model makes them of {expected:?} (channels, height, width)"
    )]
    ClassifierShape {
        /// The classifier's shape.
        found: [usize; 3],
        /// The model's.
        expected: [usize; 3],
    },
    /// A weaker model of images of another shape.
    #[error("it makes images of {found:?}, the model of {expected:?} (channels, height, width)")]
    ModelShape {
        /// The weaker model's shape.
        found: [usize; 3],
        /// The model's.
        expected: [usize; 3],
    },
    /// Other classes than the model's, which has no unconditional estimate.
    #[error("its classes are others than the model's, which must be told one")]
    ClassifierClasses,
    /// A weaker model with other classes.
    #[error("its classes are others than the model's")]
    ModelClasses,
    /// Classifier-free guidance of a model without classes.
    #[error("the model was trained without classes: there is nothing to guide towards")]
    NoClasses,
    /// Classifier-free guidance of a model that always needs a class.
    #[error("the model has learned no images without a class: there is nothing to guide away from")]
    NoUnconditional,
}

impl GuidanceMethod {
    /// Guidance of `model` by `classifier`.
    ///
    /// # Errors
    /// Another image shape; other classes where the model cannot do without one.
    pub fn by_classifier(
        classifier: LoadedClassifier,
        model: &ModelDescription,
    ) -> Result<Self, GuidanceError> {
        let (found, expected) = (classifier.description.image_shape, model.image_shape);
        if found != expected {
            return Err(GuidanceError::ClassifierShape { found, expected });
        }
        if !model.network.takes_no_class()
            && !same_names(&classifier.description.classes, &model.classes)
        {
            return Err(GuidanceError::ClassifierClasses);
        }
        Ok(Self::Classifier(Box::new(classifier)))
    }

    /// Guidance of `model` away from `weaker`.
    ///
    /// # Errors
    /// Another image shape; other classes, if it has any.
    pub fn by_weaker_model(
        weaker: LoadedModel,
        model: &ModelDescription,
    ) -> Result<Self, GuidanceError> {
        let (found, expected) = (weaker.description.image_shape, model.image_shape);
        if found != expected {
            return Err(GuidanceError::ModelShape { found, expected });
        }
        let classes = &weaker.description.classes;
        if !classes.is_empty() && !same_names(classes, &model.classes) {
            return Err(GuidanceError::ModelClasses);
        }
        Ok(Self::Autoguidance(Box::new(weaker)))
    }

    /// The classes that images can be steered to, and whether unconditional images are possible.
    pub fn classes<'a>(&'a self, model: &'a ModelDescription) -> (&'a [ModelClass], bool) {
        match self {
            Self::Classifier(classifier) => (&classifier.description.classes, true),
            Self::ClassifierFree | Self::Autoguidance(_) => {
                (&model.classes, model.network.takes_no_class())
            }
        }
    }
}

fn same_names(a: &[ModelClass], b: &[ModelClass]) -> bool {
    a.iter().map(|class| &class.name).eq(b.iter().map(|class| &class.name))
}

impl GuidanceConfig {
    /// Classifier-free guidance and nothing else.
    pub fn classifier_free(guidance: Guidance) -> Self {
        Self { guidance, ..Self::default() }
    }

    /// Images by `work`, which is called with the denoiser of `model` for images of these classes; `threshold` keeps its
    /// estimates in range.
    ///
    /// # Errors
    /// Those of `work`; a reference of another shape.
    pub(crate) fn apply(
        &self,
        model: &LoadedModel,
        classes: &[Option<u32>],
        threshold: Option<Threshold>,
        work: &mut Work<'_>,
    ) -> Result<Tensor, EditError> {
        let (denoiser, classes) = (&model.denoiser, classes.to_vec());
        let unconditional = vec![None; classes.len()];
        match &self.method {
            GuidanceMethod::ClassifierFree => {
                let guided = ClassifierFree::new(denoiser, classes, self.guidance);
                self.in_range(&guided, threshold, work)
            }
            GuidanceMethod::Autoguidance(weaker) => {
                let has_classes = !weaker.description.classes.is_empty();
                let of_weaker = if has_classes { classes.clone() } else { unconditional };
                let weaker = Conditioned::new(&weaker.denoiser, of_weaker);
                let plain = Conditioned::new(denoiser, classes);
                self.in_range(&Autoguided::new(&plain, &weaker, self.guidance), threshold, work)
            }
            GuidanceMethod::Classifier(classifier) => {
                // If the model saw the class too, it would count twice.
                let takes_none = model.description.network.takes_no_class();
                let of_model = if takes_none { unconditional } else { classes.clone() };
                let plain = Conditioned::new(denoiser, of_model);
                let guided =
                    ClassifierGuided::new(&plain, &classifier.network, classes, self.guidance);
                self.in_range(&guided, threshold, work)
            }
        }
    }

    fn in_range(
        &self,
        guided: &dyn Denoiser,
        threshold: Option<Threshold>,
        work: &mut Work<'_>,
    ) -> Result<Tensor, EditError> {
        match threshold {
            Some(threshold) => self.after_reference(&Thresholded::new(guided, threshold), work),
            None => self.after_reference(guided, work),
        }
    }

    fn after_reference(
        &self,
        denoiser: &dyn Denoiser,
        work: &mut Work<'_>,
    ) -> Result<Tensor, EditError> {
        match &self.reference {
            Some(Reference { picture, factor }) => {
                work(&AfterReference::new(denoiser, picture, *factor, 0.0)?)
            }
            None => work(denoiser),
        }
    }
}

/// Images by a denoiser.
pub(crate) type Work<'w> = dyn FnMut(&dyn Denoiser) -> Result<Tensor, EditError> + 'w;
