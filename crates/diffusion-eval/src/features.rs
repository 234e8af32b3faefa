//! The networks whose features are used to compare images.

use candle_core::{Device, Tensor};

use crate::{DigitJudge, EvalError, ImageSet, Inception};

/// The number of images that are in memory at once while features are computed.
const IN_MEMORY: usize = 256;
/// The batch size of Inception: each image takes 25 MB.
const INCEPTION_BATCH: usize = 8;

/// The kind of a feature network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureNetwork {
    /// [`DigitJudge`], the classifier of digits that this crate includes.
    DigitJudge,
    /// [`Inception`], whose Fréchet distance is the FID.
    Inception,
}

impl FeatureNetwork {
    /// The name of the features.
    pub fn name(self) -> &'static str {
        match self {
            Self::DigitJudge => "features of the digit judge",
            Self::Inception => "features of Inception-v3",
        }
    }

    /// The name of the Fréchet distance of the features.
    pub fn distance_name(self) -> &'static str {
        match self {
            Self::DigitJudge => "Fréchet distance",
            Self::Inception => "FID",
        }
    }

    /// Whether the network can read images of `shape` (C, H, W).
    pub fn accepts(self, shape: [usize; 3]) -> bool {
        self == Self::Inception || shape == DigitJudge::IMAGE_SHAPE
    }
}

/// A loaded network that computes features of images.
#[derive(Clone, Debug)]
pub enum FeatureExtractor {
    /// For grey images of 28×28 pixels.
    DigitJudge(Box<DigitJudge>),
    /// For images of any size.
    Inception(Box<Inception>),
}

impl FeatureExtractor {
    /// The included digit judge, on `device`.
    ///
    /// # Errors
    /// An error of the device.
    pub fn shipped(device: &Device) -> Result<Self, EvalError> {
        Ok(Self::DigitJudge(Box::new(DigitJudge::shipped(device)?.0)))
    }

    /// The kind of the network.
    pub(crate) fn network(&self) -> FeatureNetwork {
        match self {
            Self::DigitJudge(_) => FeatureNetwork::DigitJudge,
            Self::Inception(_) => FeatureNetwork::Inception,
        }
    }

    /// The features (N, D) of `images` (N, C, H, W) in \[−1, 1\], and the logits (N, 10) if the
    /// network classifies digits.
    ///
    /// # Errors
    /// If the network cannot read the shape of the images. If there are no images.
    pub(crate) fn extract(&self, images: &Tensor) -> Result<(Tensor, Option<Tensor>), EvalError> {
        match self {
            Self::DigitJudge(judge) => {
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
