//! A small classifier of handwritten digits, whose features stand in for Inception's where pictures are
//! 28 × 28 and grey.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};
use diffusion_kernels::{Activation, FeatureMap, in_pool, silu};
use diffusion_nn::{
    Conv2d, Conv2dConfig, GroupNorm, Initialisation, Linear, conv2d, group_norm, linear_with,
};

use crate::{EvalError, Reference, Statistics};

/// The 3 × 3 convolutions, each followed by a group normalisation and SiLU: name, channels in and out,
/// stride.
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
/// Images at once: more would need more memory without being faster.
const BATCH: usize = 256;

/// The classifier. `cargo xtask train-judge` trains it on all of MNIST's training digits.
///
/// ```text
/// image ─ 6 convolutions to 96 × 7 × 7 ─ mean over the pixels ─ linear ─ SiLU ─ 64 features ─ linear ─ 10 logits
/// ```
#[derive(Clone, Debug)]
pub struct DigitJudge {
    convolutions: Vec<(Conv2d, GroupNorm)>,
    hidden: Linear,
    out: Linear,
}

/// What the judge makes of N images.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// (N, 64).
    pub features: Tensor,
    /// (N, 10): their softmax is the probability of each digit.
    pub logits: Tensor,
}

impl DigitJudge {
    /// Features of an image.
    pub const WIDTH: usize = 64;
    /// The digits.
    pub const CLASSES: usize = 10;
    /// Channels, height and width of its images.
    pub const IMAGE_SHAPE: [usize; 3] = [1, 28, 28];

    /// The network with parameters from `vb`.
    ///
    /// # Errors
    /// Parameters that `vb` does not have or has in another shape.
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

    /// Features and logits of `images` (N, 1, 28, 28) in \[−1, 1\], all at once; differentiable.
    ///
    /// # Errors
    /// Another shape.
    pub fn forward(&self, images: &Tensor) -> Result<Verdict> {
        if images.rank() != 4 || images.dims()[1..] != Self::IMAGE_SHAPE {
            bail!("the digit judge reads images (N, 1, 28, 28), not {:?}", images.shape());
        }
        let mut h = FeatureMap::from_images(images)?;
        for (convolution, norm) in &self.convolutions {
            h = norm.forward(&convolution.forward(&h)?, Activation::Silu)?;
        }
        let pooled = h.to_images()?.flatten_from(2)?.mean(2)?;
        let features = silu(&self.hidden.forward(&pooled)?)?;
        let logits = self.out.forward(&features)?;
        Ok(Verdict { features, logits })
    }

    /// As [`forward`](Self::forward), in small parts and without gradients.
    ///
    /// # Errors
    /// Another shape; no images.
    pub fn judge(&self, images: &Tensor) -> Result<Verdict> {
        let count = images.dim(0)?;
        let (mut features, mut logits) = (Vec::new(), Vec::new());
        for first in (0..count).step_by(BATCH) {
            let batch = images.narrow(0, first, BATCH.min(count - first))?.detach();
            let verdict = in_pool(|| self.forward(&batch))?;
            features.push(verdict.features.detach());
            logits.push(verdict.logits.detach());
        }
        Ok(Verdict { features: Tensor::cat(&features, 0)?, logits: Tensor::cat(&logits, 0)? })
    }
}

/// The shipped judge and what it makes of real digits; its accuracy and how it came to be are in
/// `assets/README.md`.
const SHIPPED: &[u8] = include_bytes!("../../../assets/digit-judge.safetensors");

impl DigitJudge {
    /// The judge that ships with this crate, and MNIST's 10,000 test digits as it sees them (3,000 of
    /// them, where single digits are compared).
    ///
    /// # Errors
    /// Those of the device.
    pub fn shipped(device: &Device) -> std::result::Result<(Self, Reference), EvalError> {
        Self::from_bytes(SHIPPED, device)
    }

    /// A judge and its reference from the bytes of a file that `cargo xtask train-judge` wrote.
    ///
    /// # Errors
    /// Bytes that are no such file.
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
