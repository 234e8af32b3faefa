//! The evaluation of sets of generated images.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::training::TrainingSubset;
use super::{FeatureMetrics, ImageSet, Note, ReferenceSet, SampleMetrics, TrainingSet, notes};
use crate::{
    ClassShares, EvalError, FeatureExtractor, Judge, Memorisation, Reference, diversity, spread,
};

/// The largest number of reference images whose features are computed.
const MAX_REFERENCES: usize = 10_000;

/// A feature network and the features of the reference images.
#[derive(Clone, Debug)]
pub struct FeatureJudge {
    extractor: FeatureExtractor,
    pub(super) reference: Reference,
    reference_name: String,
    /// Whether the network recognises the classes of the images.
    classifies: bool,
    /// Whether the reference images include training images of the model.
    pub(super) circular: bool,
}

impl FeatureJudge {
    /// The network `extractor`, with the reference images of the judge's own file: for the digit
    /// judge, MNIST's 10,000 test digits.
    ///
    /// # Errors
    /// Fails with [`EvalError::NoImagesOfMnist`] if there is no reference in the file.
    pub fn with_included_reference(extractor: FeatureExtractor) -> Result<Self, EvalError> {
        let judge = extractor.judge();
        let included = judge.and_then(|judge| {
            Some((judge.reference()?.clone(), judge.description().reference.clone()?))
        });
        let (reference, reference_name) = included.ok_or(EvalError::NoImagesOfMnist)?;
        let classifies = judge.is_some_and(|judge| !judge.classes().is_empty());
        Ok(Self { extractor, reference, reference_name, classifies, circular: false })
    }

    /// The network `extractor`, with up to 10,000 images of `references`. `device` must be the
    /// device of the network.
    ///
    /// # Errors
    /// Fails with [`EvalError::TooFewReferences`] if there are fewer than 6 reference images. If
    /// the images cannot be read. If the network cannot read their shape.
    pub fn new<S: ImageSet>(
        extractor: FeatureExtractor,
        references: &ReferenceSet<S>,
        device: &Device,
    ) -> Result<Self, EvalError> {
        let ReferenceSet { images, name, circular } = references;
        let (all, smallest) = (images.len(), Reference::SMALLEST);
        if all < smallest {
            return Err(EvalError::TooFewReferences { name: name.clone(), count: all, smallest });
        }
        let features = extractor.extract_from(images, MAX_REFERENCES, device)?;
        let count = features.dim(0)?;
        let of = if count < all { format!(" of {all}") } else { String::new() };
        // A judge with a reference of its own recognises the classes of that reference. Whether
        // other images have these classes is unknown.
        let judge = extractor.judge().filter(|judge| judge.reference().is_none());
        let classifies = judge.is_some_and(|judge| !judge.classes().is_empty());
        Ok(Self {
            extractor,
            reference: Reference::of(&features)?,
            reference_name: format!("{name} ({count}{of})"),
            classifies,
            circular: *circular,
        })
    }

    /// The feature network.
    pub fn extractor(&self) -> &FeatureExtractor {
        &self.extractor
    }

    /// Whether the network is the digit judge but the images are not known to be digits. It then
    /// ranks sets of images only roughly.
    pub fn is_rough(&self) -> bool {
        let judge = self.extractor.judge();
        judge.is_some_and(|judge| judge.reference().is_some()) && !self.classifies
    }

    /// The names of the classes that the network recognises in the images; empty if it recognises
    /// none.
    pub fn classes(&self) -> &[String] {
        self.extractor.judge().filter(|_| self.classifies).map_or(&[], Judge::classes)
    }

    /// A description of the reference images.
    pub fn reference_name(&self) -> &str {
        &self.reference_name
    }

    /// The feature metrics of `images` (N, C, H, W) in \[−1, 1\]; N must be at least 6. `classes`
    /// are the names of the requested classes: one for each image, or an empty slice. A class that
    /// the network does not know counts as none.
    ///
    /// # Errors
    /// If there are fewer than 6 images. If the network cannot read the shape of the images.
    pub fn metrics(
        &self,
        images: &Tensor,
        classes: &[Option<&str>],
    ) -> Result<FeatureMetrics, EvalError> {
        let (features, logits) = self.extractor.extract(images)?;
        let logits = logits.filter(|_| self.classifies);
        let number = |name: &str| self.classes().iter().position(|class| class == name);
        let requested: Vec<Option<u32>> =
            classes.iter().map(|name| number((*name)?).map(|class| class as u32)).collect();
        let class_accuracy = |logits| {
            if requested.is_empty() {
                Ok(None)
            } else {
                ClassShares::class_accuracy(logits, &requested)
            }
        };
        Ok(FeatureMetrics {
            distance_name: self.extractor.distance_name(),
            quality: self.reference.quality(&features)?,
            diversity: diversity(&features, &numbered(classes))?,
            class_names: self.classes().to_vec(),
            class_accuracy: logits.as_ref().map(class_accuracy).transpose()?.flatten(),
            classes: logits.map(|logits| ClassShares::of(&logits)).transpose()?,
        })
    }
}

/// Replaces names by numbers: equal names get equal numbers.
fn numbered(names: &[Option<&str>]) -> Vec<Option<u32>> {
    let mut numbers = BTreeMap::new();
    let mut number = |name| {
        let next = numbers.len() as u32;
        *numbers.entry(name).or_insert(next)
    };
    names.iter().map(|name| name.map(&mut number)).collect()
}

/// Evaluates generated images: by features against reference images, and pixel by pixel against
/// training images.
pub struct SampleEvaluator {
    /// `None` if the feature network cannot read such images.
    judge: Option<FeatureJudge>,
    /// `None` if the training images of the model are unknown or fewer than 2.
    training: Option<TrainingSubset>,
    /// The shape (C, H, W) of the images.
    shape: [usize; 3],
}

impl SampleEvaluator {
    /// An evaluator of images of `shape` (C, H, W) by `judge`. `training` are the images that the
    /// model was trained on.
    ///
    /// # Errors
    /// If the training images cannot be read. If a pixel is not finite.
    pub fn new<S: ImageSet>(
        shape: [usize; 3],
        judge: Option<FeatureJudge>,
        training: Option<&TrainingSet<S>>,
        device: &Device,
    ) -> Result<Self, EvalError> {
        let training = training.filter(|training| training.can_be_copied());
        let training =
            training.map(|training| TrainingSubset::new(training, device)).transpose()?;
        Ok(Self { judge, training, shape })
    }

    /// How the images are evaluated, as a phrase that can follow "they are".
    pub fn description(&self) -> String {
        match (&self.judge, &self.training) {
            (Some(judge), _) => {
                format!(
                    "evaluated with the {}, compared with {}",
                    judge.extractor().features_name(),
                    judge.reference_name
                )
            }
            (None, training) => {
                let [channels, height, width] = self.shape;
                let count = training.as_ref().map_or(0, |training| training.all);
                format!(
                    "checked for copies of the {count} training pictures only: the digit judge \
                     needs images of 1×28×28, not of {channels}×{height}×{width}"
                )
            }
        }
    }

    /// The judge by features; `None` if the feature network cannot read such images.
    pub fn judge(&self) -> Option<&FeatureJudge> {
        self.judge.as_ref()
    }

    /// The notes about metrics of sets of `fewest` to `most` images.
    pub(super) fn notes(&self, fewest: usize, most: usize) -> Vec<Note> {
        notes::notes(self.judge.as_ref(), self.training.as_ref(), fewest, most)
    }

    /// Checks that the `count` images of the set `name` are enough to evaluate.
    ///
    /// # Errors
    /// Fails with [`EvalError::TooFewImages`] if there is a judge and `count` is below 6.
    pub fn check_number(&self, name: &str, count: usize) -> Result<(), EvalError> {
        let smallest = Reference::SMALLEST;
        if self.judge.is_some() && count < smallest {
            return Err(EvalError::TooFewImages { name: name.to_owned(), count, smallest });
        }
        Ok(())
    }

    /// The metrics of `images` (N, C, H, W) in \[−1, 1\]. `classes` are the names of the requested
    /// classes: one for each image, or an empty slice.
    ///
    /// # Errors
    /// If there are too few images. If their shape does not fit the network or the training images.
    pub fn evaluate(
        &self,
        images: &Tensor,
        classes: &[Option<&str>],
    ) -> Result<SampleMetrics, EvalError> {
        let features =
            self.judge.as_ref().map(|judge| judge.metrics(images, classes)).transpose()?;
        let memorisation = self.evaluate_copies(images)?;
        Ok(SampleMetrics { count: images.dim(0)?, features, memorisation })
    }

    /// How near `images` (N, C, H, W) are to the training images; `None` if these are unknown.
    ///
    /// # Errors
    /// If the shape of the images does not fit the training images.
    pub fn evaluate_copies(&self, images: &Tensor) -> Result<Option<Memorisation>, EvalError> {
        self.training.as_ref().map(|training| training.memorisation(images)).transpose()
    }

    /// The feature metrics of up to `count` training images: the score of a perfect model. `None`
    /// if the training images are fewer than 6, unknown or part of the reference images.
    ///
    /// # Errors
    /// An error of the network.
    pub fn evaluate_training(&self, count: usize) -> Result<Option<SampleMetrics>, EvalError> {
        let (Some(judge), Some(training)) = (&self.judge, &self.training) else { return Ok(None) };
        let count = training.count().min(count);
        if judge.circular || count < Reference::SMALLEST {
            return Ok(None);
        }
        let features = Some(judge.metrics(&spread(&training.images, count)?, &[])?);
        Ok(Some(SampleMetrics { count, features, memorisation: None }))
    }
}
