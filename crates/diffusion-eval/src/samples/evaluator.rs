//! Judging sets of generated images.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::training::KnownImages;
use super::{FeatureMetrics, ImageSet, Note, ReferenceSet, SampleMetrics, TrainingSet, notes};
use crate::{
    ClassShares, DigitJudge, EvalError, FeatureExtractor, FeatureNetwork, Reference, diversity,
    spread,
};

/// Reference images that features are computed of, at most.
const REFERENCES: usize = 10_000;

/// Reference images, as a network of features sees them.
#[derive(Clone, Debug)]
pub struct FeatureJudge {
    extractor: FeatureExtractor,
    pub(super) reference: Reference,
    reference_name: String,
    /// Whether the digits that the network reads are the classes of the images.
    classifies: bool,
    /// Whether images that the model was trained on are among the references.
    pub(super) circular: bool,
}

impl FeatureJudge {
    /// The digit judge that comes with this crate, beside MNIST's 10,000 test digits.
    ///
    /// # Errors
    /// Those of the device.
    pub fn of_mnist(device: &Device) -> Result<Self, EvalError> {
        let (judge, reference) = DigitJudge::shipped(device)?;
        Ok(Self {
            extractor: FeatureExtractor::DigitJudge(Box::new(judge)),
            reference,
            reference_name: "10,000 test digits of MNIST".to_owned(),
            classifies: true,
            circular: false,
        })
    }

    /// `extractor`, which is on `device`, beside up to 10,000 images of `references`.
    ///
    /// # Errors
    /// [`EvalError::TooFewReferences`]; those of reading and of the network.
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
        let features = extractor.extract_from(images, REFERENCES, device)?;
        let count = features.dim(0)?;
        let of = if count < all { format!(" of {all}") } else { String::new() };
        Ok(Self {
            extractor,
            reference: Reference::of(&features)?,
            reference_name: format!("{name} ({count}{of})"),
            classifies: false,
            circular: *circular,
        })
    }

    /// The network that makes the features.
    pub fn network(&self) -> FeatureNetwork {
        self.extractor.network()
    }

    /// Whether the digit judge judges images that are no digits, as far as is known: it orders sets of them
    /// only roughly.
    pub fn is_rough(&self) -> bool {
        self.network() == FeatureNetwork::DigitJudge && !self.classifies
    }

    /// What the reference images are.
    pub fn reference_name(&self) -> &str {
        &self.reference_name
    }

    /// How near `images` (N, C, H, W) in \[−1, 1\] are to the reference images, and what classes are read in
    /// them; N at least 6. `classes` are the names of those that they were to be of, one an image or none at
    /// all; a digit's name is the digit.
    ///
    /// # Errors
    /// Fewer images; of a shape that the network does not read.
    pub fn metrics(
        &self,
        images: &Tensor,
        classes: &[Option<&str>],
    ) -> Result<FeatureMetrics, EvalError> {
        let (features, logits) = self.extractor.extract(images)?;
        let logits = logits.filter(|_| self.classifies);
        let expected: Vec<Option<u32>> = classes.iter().map(|name| (*name)?.parse().ok()).collect();
        let as_asked = |logits| {
            if expected.is_empty() { Ok(None) } else { ClassShares::as_asked(logits, &expected) }
        };
        Ok(FeatureMetrics {
            network: self.network(),
            quality: self.reference.quality(&features)?,
            diversity: diversity(&features, &numbered(classes))?,
            as_asked: logits.as_ref().map(as_asked).transpose()?.flatten(),
            classes: logits.map(|logits| ClassShares::of(&logits)).transpose()?,
        })
    }
}

/// The same names as the same numbers.
fn numbered(names: &[Option<&str>]) -> Vec<Option<u32>> {
    let mut numbers = BTreeMap::new();
    let mut number = |name| {
        let next = numbers.len() as u32;
        *numbers.entry(name).or_insert(next)
    };
    names.iter().map(|name| name.map(&mut number)).collect()
}

/// What generated images are compared with: reference images by their features, training images pixel by
/// pixel.
pub struct SampleEvaluator {
    /// `None` where no network makes features of such images.
    judge: Option<FeatureJudge>,
    /// `None` where the images that the model was trained on are not known.
    training: Option<KnownImages>,
    /// Channels, height and width of the images.
    shape: [usize; 3],
}

impl SampleEvaluator {
    /// For images of `shape`, compared by `judge`, from a model that was trained on `training`.
    ///
    /// # Errors
    /// Those of reading the training images.
    pub fn new<S: ImageSet>(
        shape: [usize; 3],
        judge: Option<FeatureJudge>,
        training: Option<&TrainingSet<S>>,
        device: &Device,
    ) -> Result<Self, EvalError> {
        let training = training.filter(|training| training.can_be_copied());
        let training = training.map(|training| KnownImages::new(training, device)).transpose()?;
        Ok(Self { judge, training, shape })
    }

    /// How the images are judged, to follow "they are".
    pub fn description(&self) -> String {
        match (&self.judge, &self.training) {
            (Some(judge), _) => {
                format!("judged by the {}, beside {}", judge.network().name(), judge.reference_name)
            }
            (None, training) => {
                let [channels, height, width] = self.shape;
                let among = training.as_ref().map_or(0, |training| training.all);
                format!(
                    "looked at for copies of the {among} training pictures only: the digit judge makes features of 1×28×28, not of \
                     {channels}×{height}×{width}"
                )
            }
        }
    }

    /// What judges by features, if anything can.
    pub fn judge(&self) -> Option<&FeatureJudge> {
        self.judge.as_ref()
    }

    /// What a reader of the metrics of sets of `fewest` to `most` images has to know.
    pub(super) fn notes(&self, fewest: usize, most: usize) -> Vec<Note> {
        notes::notes(self.judge.as_ref(), self.training.as_ref(), fewest, most)
    }

    /// Whether `count` images, which are called `name`, are enough.
    ///
    /// # Errors
    /// [`EvalError::TooFewImages`].
    pub fn check_number(&self, name: &str, count: usize) -> Result<(), EvalError> {
        let smallest = Reference::SMALLEST;
        if self.judge.is_some() && count < smallest {
            return Err(EvalError::TooFewImages { name: name.to_owned(), count, smallest });
        }
        Ok(())
    }

    /// The metrics of `images` (N, C, H, W) in \[−1, 1\]. `classes` are the names of those that they were to
    /// be of, one an image or none at all.
    ///
    /// # Errors
    /// Too few images, or of another shape.
    pub fn evaluate(
        &self,
        images: &Tensor,
        classes: &[Option<&str>],
    ) -> Result<SampleMetrics, EvalError> {
        let features =
            self.judge.as_ref().map(|judge| judge.metrics(images, classes)).transpose()?;
        let memorisation =
            self.training.as_ref().map(|training| training.memorisation(images)).transpose()?;
        Ok(SampleMetrics { count: images.dim(0)?, features, memorisation })
    }

    /// The metrics of `count` training images, or all there are, compared with the reference images as
    /// generated ones are: what a perfect model would get. `None` where they are too few, not known, or among
    /// the reference images.
    ///
    /// # Errors
    /// Those of the network.
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
