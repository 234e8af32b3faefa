//! The networks by whose features images are compared.

use candle_core::{Device, Tensor};

use crate::{DigitJudge, EvalError, ImageSet, Inception};

/// Images of a set that are in memory at once while their features are computed.
const IN_MEMORY: usize = 256;
/// Images that Inception sees at once: each takes 25 MB.
const INCEPTION_BATCH: usize = 8;

/// Which network makes the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureNetwork {
    /// The classifier of digits that comes with this crate: [`DigitJudge`].
    DigitJudge,
    /// [`Inception`], by whose features the distance is the FID.
    Inception,
}

impl FeatureNetwork {
    /// What the features are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::DigitJudge => "features of the digit judge",
            Self::Inception => "features of Inception-v3",
        }
    }

    /// What the Fréchet distance of the features is called.
    pub fn distance_name(self) -> &'static str {
        match self {
            Self::DigitJudge => "Fréchet distance",
            Self::Inception => "FID",
        }
    }

    /// Whether it makes features of images of `shape`: channels, height and width.
    pub fn accepts(self, shape: [usize; 3]) -> bool {
        self == Self::Inception || shape == DigitJudge::IMAGE_SHAPE
    }
}

/// A network that makes features of images.
#[derive(Clone, Debug)]
pub enum FeatureExtractor {
    /// For grey images of 28×28.
    DigitJudge(Box<DigitJudge>),
    /// For images of any size.
    Inception(Box<Inception>),
}

impl FeatureExtractor {
    /// The digit judge that comes with this crate, on `device`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn shipped(device: &Device) -> Result<Self, EvalError> {
        Ok(Self::DigitJudge(Box::new(DigitJudge::shipped(device)?.0)))
    }

    /// Which network it is.
    pub(crate) fn network(&self) -> FeatureNetwork {
        match self {
            Self::DigitJudge(_) => FeatureNetwork::DigitJudge,
            Self::Inception(_) => FeatureNetwork::Inception,
        }
    }

    /// The features (N, D) of `images` (N, C, H, W) in \[−1, 1\], and logits (N, 10) where the network
    /// classifies digits.
    ///
    /// # Errors
    /// Images of a shape that the network does not read; no images.
    pub(crate) fn extract(&self, images: &Tensor) -> Result<(Tensor, Option<Tensor>), EvalError> {
        match self {
            Self::DigitJudge(judge) => {
                let verdict = judge.judge(images)?;
                Ok((verdict.features, Some(verdict.logits)))
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

    /// The features of at most `most` images of `set`, which are put on `device` in small parts.
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
