//! A small classifier of handwritten digits. Its features replace Inception's for grey pictures of
//! 28 × 28.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};
use diffusion_assets::DIGIT_JUDGE;
use diffusion_kernels::{Activation, FeatureMap, in_pool, silu};
use diffusion_nn::{
    Conv2d, Conv2dConfig, GroupNorm, Initialisation, Linear, conv2d, group_norm, linear_with,
};

use crate::{EvalError, Reference, Statistics};

/// The 3 × 3 convolutions, each followed by group normalisation and SiLU: name, input channels,
/// output channels and stride.
const CONVOLUTIONS: [(&str, usize, usize, usize); 6] = [
    ("conv1", 1, 32, 1),
    ("conv2", 32, 32, 1),
    ("conv3", 32, 64, 2),
    ("conv4", 64, 64, 1),
    ("conv5", 64, 96, 2),
    ("conv6", 96, 96, 1),
];
const GROUPS: usize = 8;
const EPS: f64 = 1e-5;
/// The batch size: a larger one would need more memory without being faster.
const BATCH: usize = 256;

/// A classifier of handwritten digits whose features compare images.
///
/// `cargo xtask train-judge` trains it on all of MNIST's training digits.
///
/// ```text
/// image ─ 6 convolutions to 96 × 7 × 7 ─ mean over the pixels
///       ─ linear ─ SiLU ─ 64 features ─ linear ─ 10 logits
/// ```
#[derive(Clone, Debug)]
pub struct DigitJudge {
    convolutions: Vec<(Conv2d, GroupNorm)>,
    hidden: Linear,
    out: Linear,
}

/// The output of the judge for N images.
#[derive(Clone, Debug)]
pub struct JudgeOutput {
    /// The features (N, 64).
    pub features: Tensor,
    /// The logits (N, 10): their softmax is the probability of each digit.
    pub logits: Tensor,
}

impl DigitJudge {
    /// The number of features of an image.
    pub const WIDTH: usize = 64;
    /// The number of classes: the digits 0 to 9.
    pub const CLASSES: usize = 10;
    /// The shape (C, H, W) of an image.
    pub const IMAGE_SHAPE: [usize; 3] = [1, 28, 28];

    /// The network with the parameters of `vb`.
    ///
    /// # Errors
    /// If a parameter is missing in `vb` or has another shape.
    pub fn new(vb: VarBuilder<'_>) -> Result<Self> {
        let init = Initialisation::KaimingNormal;
        let convolution = |&(name, inputs, outputs, stride): &(&str, usize, usize, usize)| {
            let (vb, config) =
                (vb.pp(name), Conv2dConfig { stride, bias: false, init, ..Default::default() });
            let norm = group_norm(GROUPS, outputs, EPS, vb.pp("norm"))?;
            Ok((conv2d(inputs, outputs, config, vb)?, norm))
        };
        let linear = |name: &str, inputs, outputs| linear_with(inputs, outputs, init, vb.pp(name));
        let [.., (_, _, channels, _)] = CONVOLUTIONS;
        Ok(Self {
            convolutions: CONVOLUTIONS.iter().map(convolution).collect::<Result<_>>()?,
            hidden: linear("hidden", channels, Self::WIDTH)?,
            out: linear("out", Self::WIDTH, Self::CLASSES)?,
        })
    }

    /// The features and logits of `images` (N, 1, 28, 28) in \[−1, 1\], in one batch;
    /// differentiable.
    ///
    /// # Errors
    /// If the images have another shape.
    pub fn forward(&self, images: &Tensor) -> Result<JudgeOutput> {
        if images.rank() != 4 || images.dims()[1..] != Self::IMAGE_SHAPE {
            bail!("the digit judge needs images (N, 1, 28, 28), got {:?}", images.shape());
        }
        let mut h = FeatureMap::from_images(images)?;
        for (convolution, norm) in &self.convolutions {
            h = norm.forward(&convolution.forward(&h)?, Activation::Silu)?;
        }
        let pooled = h.to_images()?.flatten_from(2)?.mean(2)?;
        let features = silu(&self.hidden.forward(&pooled)?)?;
        let logits = self.out.forward(&features)?;
        Ok(JudgeOutput { features, logits })
    }

    /// The features and logits of `images` (N, 1, 28, 28) in \[−1, 1\], in batches of 256 and
    /// without gradients.
    ///
    /// # Errors
    /// If the images have another shape. If there are no images.
    pub fn judge(&self, images: &Tensor) -> Result<JudgeOutput> {
        let count = images.dim(0)?;
        let (mut features, mut logits) = (Vec::new(), Vec::new());
        for first in (0..count).step_by(BATCH) {
            let batch = images.narrow(0, first, BATCH.min(count - first))?.detach();
            let output = in_pool(|| self.forward(&batch))?;
            features.push(output.features.detach());
            logits.push(output.logits.detach());
        }
        Ok(JudgeOutput { features: Tensor::cat(&features, 0)?, logits: Tensor::cat(&logits, 0)? })
    }
}

impl DigitJudge {
    /// The included judge, and its features of MNIST's 10,000 test digits as the reference. Metrics
    /// that compare single digits use 3,000 of them.
    ///
    /// # Errors
    /// An error of the device.
    pub fn shipped(device: &Device) -> std::result::Result<(Self, Reference), EvalError> {
        Self::from_bytes(DIGIT_JUDGE, device)
    }

    /// A judge and its reference from the bytes of a file that `cargo xtask train-judge` wrote.
    ///
    /// # Errors
    /// If `bytes` is not a safetensors file with the tensors of a judge and its reference. An error
    /// of the device.
    pub fn from_bytes(
        bytes: &[u8],
        device: &Device,
    ) -> std::result::Result<(Self, Reference), EvalError> {
        let judge = Self::new(VarBuilder::from_slice_safetensors(bytes, DType::F32, device)?)?;
        let tensors = candle_core::safetensors::SliceSafetensors::new(bytes)?;
        let load = |name: &str| tensors.load(&format!("reference.{name}"), &Device::Cpu);
        let statistics = Statistics::from_parts(&load("mean")?, &load("covariance")?)?;
        let features = load("features")?.to_dtype(DType::F32)?;
        Ok((judge, Reference::new(statistics, &features)?))
    }
}
