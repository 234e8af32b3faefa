//! Guidance as data.

use candle_core::Tensor;
use diffusion_process::{Conditioned, Denoiser, Threshold, Thresholded};
use diffusion_sample::edit::EditError;
use diffusion_sample::{Autoguided, ClassifierFree, ClassifierGuided, Guidance, ReferenceGuided};
use thiserror::Error;

use crate::{LoadedClassifier, LoadedModel, ModelClass, ModelDescription};

/// How the images of a model are guided.
#[derive(Default)]
pub struct GuidanceConfig {
    /// The strength of the guidance.
    pub guidance: Guidance,
    /// The source of the second prediction.
    pub method: GuidanceMethod,
    /// A picture whose low frequencies the images take on.
    pub reference: Option<Reference>,
}

/// The source of the second prediction of guidance.
#[derive(Default)]
pub enum GuidanceMethod {
    /// The model's own unconditional prediction (Ho & Salimans 2022).
    #[default]
    ClassifierFree,
    /// A weaker model (Karras et al. 2024).
    Autoguidance(Box<LoadedModel>),
    /// A classifier of noisy images (Dhariwal & Nichol 2021).
    Classifier(Box<LoadedClassifier>),
}

/// A picture whose low frequencies the images take on (ILVR, Choi et al. 2021).
pub struct Reference {
    /// The picture (1, C, H, W), in the shape of the model's images.
    pub picture: Tensor,
    /// The factor by which images are scaled down for the comparison, at least 1.
    pub factor: f64,
}

/// Why a model cannot be guided in this way.
#[derive(Debug, Error)]
pub enum GuidanceError {
    /// The classifier needs another image shape.
    #[error(
        "the classifier needs images of shape {found:?}, but the model generates {expected:?} \
         (channels, height, width)"
    )]
    ClassifierShape {
        /// The shape (C, H, W) of the classifier.
        found: [usize; 3],
        /// The shape (C, H, W) of the model.
        expected: [usize; 3],
    },
    /// The weaker model generates another image shape.
    #[error(
        "the weaker model generates images of shape {found:?}, but the model {expected:?} \
         (channels, height, width)"
    )]
    ModelShape {
        /// The shape (C, H, W) of the weaker model.
        found: [usize; 3],
        /// The shape (C, H, W) of the model.
        expected: [usize; 3],
    },
    /// The classifier has other classes than the model, and the model cannot predict without a
    /// class.
    #[error(
        "the classifier's classes differ from those of the model, which needs a class for each \
         image"
    )]
    ClassifierClasses,
    /// The weaker model has other classes.
    #[error("the weaker model's classes differ from those of the model")]
    ModelClasses,
    /// Classifier-free guidance of a model without classes.
    #[error("the model was trained without classes, so classifier-free guidance is impossible")]
    NoClasses,
    /// Classifier-free guidance of a model that always needs a class.
    #[error("the model cannot predict without a class, so classifier-free guidance is impossible")]
    NoUnconditional,
}

impl GuidanceMethod {
    /// Guides `model` by `classifier`.
    ///
    /// # Errors
    /// If the image shapes differ, or if the classes differ and the model cannot predict without a
    /// class.
    pub fn by_classifier(
        classifier: LoadedClassifier,
        model: &ModelDescription,
    ) -> Result<Self, GuidanceError> {
        let (found, expected) = (classifier.description.image_shape, model.image_shape);
        if found != expected {
            return Err(GuidanceError::ClassifierShape { found, expected });
        }
        if !model.network.supports_unconditional()
            && !same_names(&classifier.description.classes, &model.classes)
        {
            return Err(GuidanceError::ClassifierClasses);
        }
        Ok(Self::Classifier(Box::new(classifier)))
    }

    /// Guides `model` away from `weaker`.
    ///
    /// # Errors
    /// If the image shapes differ, or if `weaker` has classes that differ from the model's.
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

    /// The classes that can be chosen, and whether unconditional images are possible.
    pub fn classes<'a>(&'a self, model: &'a ModelDescription) -> (&'a [ModelClass], bool) {
        match self {
            Self::Classifier(classifier) => (&classifier.description.classes, true),
            Self::ClassifierFree | Self::Autoguidance(_) => {
                (&model.classes, model.network.supports_unconditional())
            }
        }
    }
}

fn same_names(a: &[ModelClass], b: &[ModelClass]) -> bool {
    a.iter().map(|class| &class.name).eq(b.iter().map(|class| &class.name))
}

impl GuidanceConfig {
    /// Only classifier-free guidance.
    pub fn classifier_free(guidance: Guidance) -> Self {
        Self { guidance, ..Self::default() }
    }

    /// Calls `operation` with the guided denoiser of `model` for images of these classes.
    /// `threshold` keeps its predictions in range; its second part is whether ε̂ stays unchanged.
    ///
    /// # Errors
    /// If the reference picture has the wrong shape. Also an error of `operation`.
    pub(crate) fn apply(
        &self,
        model: &LoadedModel,
        classes: &[Option<u32>],
        threshold: Option<(Threshold, bool)>,
        operation: &mut DenoiserOperation<'_>,
    ) -> Result<Tensor, EditError> {
        let (denoiser, classes) = (&model.denoiser, classes.to_vec());
        let unconditional = vec![None; classes.len()];
        match &self.method {
            GuidanceMethod::ClassifierFree => {
                let guided = ClassifierFree::new(denoiser, classes, self.guidance);
                self.with_threshold(&guided, threshold, operation)
            }
            GuidanceMethod::Autoguidance(weaker) => {
                let has_classes = !weaker.description.classes.is_empty();
                let weaker_classes = if has_classes { classes.clone() } else { unconditional };
                let weaker = Conditioned::new(&weaker.denoiser, weaker_classes);
                let plain = Conditioned::new(denoiser, classes);
                self.with_threshold(
                    &Autoguided::new(&plain, &weaker, self.guidance),
                    threshold,
                    operation,
                )
            }
            GuidanceMethod::Classifier(classifier) => {
                // If the model were conditioned on the class too, the class would count twice.
                let unconditional_possible = model.description.network.supports_unconditional();
                let model_classes =
                    if unconditional_possible { unconditional } else { classes.clone() };
                let plain = Conditioned::new(denoiser, model_classes);
                let guided =
                    ClassifierGuided::new(&plain, &classifier.network, classes, self.guidance);
                self.with_threshold(&guided, threshold, operation)
            }
        }
    }

    fn with_threshold(
        &self,
        guided: &dyn Denoiser,
        threshold: Option<(Threshold, bool)>,
        operation: &mut DenoiserOperation<'_>,
    ) -> Result<Tensor, EditError> {
        match threshold {
            Some((threshold, keeps_noise)) => {
                let thresholded = Thresholded::new(guided, threshold);
                let thresholded =
                    if keeps_noise { thresholded.keeping_noise() } else { thresholded };
                self.with_reference(&thresholded, operation)
            }
            None => self.with_reference(guided, operation),
        }
    }

    fn with_reference(
        &self,
        denoiser: &dyn Denoiser,
        operation: &mut DenoiserOperation<'_>,
    ) -> Result<Tensor, EditError> {
        match &self.reference {
            Some(Reference { picture, factor }) => {
                operation(&ReferenceGuided::new(denoiser, picture, *factor, 0.0)?)
            }
            None => operation(denoiser),
        }
    }
}

/// Computes images with a denoiser.
pub(crate) type DenoiserOperation<'w> = dyn FnMut(&dyn Denoiser) -> Result<Tensor, EditError> + 'w;
