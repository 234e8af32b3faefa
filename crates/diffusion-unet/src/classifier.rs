//! A classifier of noisy images.

use candle_core::{Error, Result, Tensor};
use candle_nn::{Module, VarBuilder};
use diffusion_kernels::{Activation, FeatureMap, in_pool};
use diffusion_nn::{
    Conv2d, Conv2dConfig, GroupNorm, Linear, ResidualBlock, TimeEmbedding, conv2d, group_norm,
    linear,
};
use diffusion_process::{Classifier, NoiseLevel, per_image};
use serde::{Deserialize, Serialize};

use crate::simple::blocks::{EPS, GROUPS, residual_block, time_embedding};

/// The settings of a [`NoisyClassifier`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoisyClassifierConfig {
    /// Channels of the images: 1 for grey, 3 for RGB.
    pub in_channels: usize,
    /// Channels of the first level, a multiple of 8. The second level has twice, the third three
    /// times as many.
    pub base_channels: usize,
    /// The number of classes, at least 2.
    pub classes: usize,
}

/// The width of the embedding of the noise level.
const TIME_DIM: usize = 64;
/// The number of levels. Each halves height and width.
const LEVELS: usize = 3;

/// A small classifier of noisy images: the first half of a U-Net, followed by a mean over the
/// pixels (Dhariwal & Nichol 2021, section 4.1).
///
/// ```text
/// image ─ 3 × (stride-2 convolution ─ residual block) ─ norm ─ pixel mean ─ linear ─ logits
/// ```
///
/// Each block receives the noise level as the angle arctan(σ), and images are scaled to a variance
/// of about 1. So one classifier works with models of any schedule, with flows and with
/// variance-exploding noise.
#[derive(Clone, Debug)]
pub struct NoisyClassifier {
    time_embed: TimeEmbedding,
    levels: Vec<(Conv2d, ResidualBlock)>,
    norm: GroupNorm,
    out: Linear,
}

impl NoisyClassifier {
    /// The network with parameters from `vb`.
    ///
    /// # Errors
    /// - If `base_channels` is 0 or not a multiple of 8.
    /// - If `in_channels` is 0.
    /// - If there are fewer than 2 classes.
    /// - If `vb` does not have a parameter, or has it in another shape.
    pub fn new(config: &NoisyClassifierConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let NoisyClassifierConfig { in_channels, base_channels, classes } = *config;
        if in_channels == 0 || base_channels == 0 || classes < 2 {
            return Err(Error::Msg(format!(
                "a classifier needs at least 2 classes and non-zero channels, \
                 got {classes} classes, in_channels {in_channels} and base_channels {base_channels}"
            )));
        }
        let halving = Conv2dConfig { stride: 2, ..Conv2dConfig::default() };
        let mut levels = Vec::new();
        let mut inputs = in_channels;
        for level in 0..LEVELS {
            let vb = vb.pp(format!("levels.{level}"));
            let outputs = (level + 1) * base_channels;
            levels.push((
                conv2d(inputs, outputs, halving, vb.pp("down"))?,
                residual_block(outputs, outputs, TIME_DIM, vb.pp("block"))?,
            ));
            inputs = outputs;
        }
        Ok(Self {
            time_embed: time_embedding(TIME_DIM, vb.pp("time_embed"))?,
            levels,
            norm: group_norm(GROUPS, inputs, EPS, vb.pp("norm"))?,
            out: linear(inputs, classes, vb.pp("out"))?,
        })
    }

    /// The logits (N, classes) of `x_t` (N, C, H, W), with one noise level per image.
    /// Differentiable in images and parameters.
    ///
    /// # Errors
    /// - If the images do not have `in_channels` channels.
    /// - If the number of levels is not N.
    pub fn forward(&self, x_t: &Tensor, levels: &[NoiseLevel]) -> Result<Tensor> {
        let n = x_t.dim(0)?;
        if levels.len() != n {
            return Err(Error::Msg(format!(
                "expected {n} noise levels (one per image), got {}",
                levels.len()
            )));
        }
        in_pool(|| {
            let angles =
                Tensor::from_iter(levels.iter().map(|level| angle(level) as f32), x_t.device())?;
            let time = self.time_embed.forward(&angles)?;
            let scales = per_image(levels.iter().map(NoiseLevel::to_variance_preserving), x_t)?;
            let mut h = FeatureMap::from_images(&x_t.broadcast_mul(&scales)?)?;
            for (down, block) in &self.levels {
                h = block.forward(&down.forward(&h)?, &time, None)?;
            }
            let pooled =
                self.norm.forward(&h, Activation::Silu)?.to_images()?.flatten_from(2)?.mean(2)?;
            self.out.forward(&pooled)
        })
    }
}

/// The angle arctan(noise/signal), scaled to 0 for a clean image and 1000 for pure noise: the range
/// that time embeddings are designed for.
fn angle(level: &NoiseLevel) -> f64 {
    1000.0 * level.noise.atan2(level.signal) / std::f64::consts::FRAC_PI_2
}

impl Classifier for NoisyClassifier {
    fn logits(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Tensor> {
        self.forward(x_t, &vec![level; x_t.dim(0)?])
    }

    /// Runs the forward and the backward pass in one call of the kernels' thread pool.
    fn gradient(&self, x_t: &Tensor, level: NoiseLevel, classes: &[Option<u32>]) -> Result<Tensor> {
        in_pool(|| diffusion_process::class_gradient(self, x_t, level, classes))
    }
}
