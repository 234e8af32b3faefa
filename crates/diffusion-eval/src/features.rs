//! The networks whose features are used to compare images.

use candle_core::{Device, Tensor};

use crate::{EvalError, ImageSet, Inception, Judge};

/// The number of images that are in memory at once while features are computed.
const IN_MEMORY: usize = 256;
/// The batch size of Inception: each image takes 25 MB.
const INCEPTION_BATCH: usize = 8;

/// A loaded network that computes features of images.
#[derive(Clone, Debug)]
pub enum FeatureExtractor {
    /// A classifier of small images, for images of one shape.
    Judge(Box<Judge>),
    /// [`Inception`], whose Fréchet distance is the FID, for images of any size.
    Inception(Box<Inception>),
}

impl FeatureExtractor {
    /// The included digit judge, on `device`.
    ///
    /// # Errors
    /// An error of the device.
    pub fn shipped(device: &Device) -> Result<Self, EvalError> {
        Ok(Self::Judge(Box::new(Judge::shipped(device)?)))
    }

    /// The name of the network.
    pub fn name(&self) -> &str {
        match self {
            Self::Judge(judge) => &judge.description().name,
            Self::Inception(_) => "Inception-v3",
        }
    }

    /// The name of the features.
    pub fn features_name(&self) -> String {
        match self {
            Self::Judge(_) => format!("features of the {}", self.name()),
            Self::Inception(_) => format!("features of {}", self.name()),
        }
    }

    /// The name of the Fréchet distance of the features.
    pub fn distance_name(&self) -> &'static str {
        match self {
            Self::Judge(_) => "Fréchet distance",
            Self::Inception(_) => "FID",
        }
    }

    /// Checks that the network can read images of `shape` (C, H, W).
    ///
    /// # Errors
    /// Fails with [`EvalError::NoFeatures`] if it cannot.
    pub fn check_shape(&self, shape: [usize; 3]) -> Result<(), EvalError> {
        match self {
            Self::Judge(judge) if judge.description().network.image_shape != shape => {
                Err(EvalError::NoFeatures {
                    judge: self.name().to_owned(),
                    expected: judge.description().network.image_shape,
                    shape,
                })
            }
            _ => Ok(()),
        }
    }

    /// The judge, unless this is Inception.
    pub fn judge(&self) -> Option<&Judge> {
        match self {
            Self::Judge(judge) => Some(judge),
            Self::Inception(_) => None,
        }
    }

    /// The features (N, D) of `images` (N, C, H, W) in \[−1, 1\], and the logits (N, classes) if
    /// the network classifies images.
    ///
    /// # Errors
    /// If the network cannot read the shape of the images. If there are no images.
    pub(crate) fn extract(&self, images: &Tensor) -> Result<(Tensor, Option<Tensor>), EvalError> {
        match self {
            Self::Judge(judge) => {
                let output = judge.judge(images)?;
                Ok((output.features, Some(output.logits)))
            }
            Self::Inception(network) => {
                let count = images.dim(0)?;
                let parts = (0..count).step_by(INCEPTION_BATCH).map(|first| {
                    let batch = images.narrow(0, first, INCEPTION_BATCH.min(count - first))?;
                    network.features(&batch)?.to_device(&Device::Cpu)
                });
                Ok((Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)?, None))
            }
        }
    }

    /// The features (n, D) of at most `most` images of `set`. Images are moved to `device` in
    /// batches.
    pub(crate) fn extract_from<S: ImageSet>(
        &self,
        set: &S,
        most: usize,
        device: &Device,
    ) -> Result<Tensor, EvalError> {
        let chosen = set.limited(most)?;
        let parts = (0..chosen.len()).step_by(IN_MEMORY).map(|first| {
            let end = chosen.len().min(first + IN_MEMORY);
            Ok(self.extract(&chosen.images(first..end, device)?)?.0)
        });
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>, EvalError>>()?, 0)?)
    }
}
