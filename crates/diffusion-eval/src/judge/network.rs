//! The network of a judge.

use candle_core::{Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};
use diffusion_kernels::{Activation, FeatureMap, silu};
use diffusion_nn::{
    Conv2d, Conv2dConfig, GroupNorm, Initialisation, Linear, conv2d, group_norm, linear_with,
};
use serde::{Deserialize, Serialize};

const GROUPS: usize = 8;
const EPS: f64 = 1e-5;

/// The settings of a [`JudgeNetwork`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeNetworkConfig {
    /// The shape (C, H, W) of an image.
    pub image_shape: [usize; 3],
    /// The channels of each level, multiples of 8. Each level after the first halves height and
    /// width.
    pub channels: Vec<usize>,
    /// Whether a level ends with a residual pair of convolutions. Otherwise it ends with one
    /// convolution.
    pub residual: bool,
    /// The number of features of an image.
    pub features: usize,
    /// The number of logits, at least 2.
    pub outputs: usize,
}

impl JudgeNetworkConfig {
    /// A residual network for images of `image_shape` (C, H, W) with 128 features. The last level
    /// has 256 channels and at most 8 pixels a side; each level before it has half as many
    /// channels, but at least 32.
    pub fn new(image_shape: [usize; 3], outputs: usize) -> Self {
        const SMALLEST: usize = 8;
        let [_, height, width] = image_shape;
        let (mut side, mut levels) = (height.min(width), 1);
        while side > SMALLEST {
            side = side.div_ceil(2);
            levels += 1;
        }
        let channels = (0..levels).rev().map(|level| (256usize >> level).max(32)).collect();
        Self { image_shape, channels, residual: true, features: 128, outputs }
    }

    /// The network of the included digit judge.
    pub fn of_digits() -> Self {
        Self {
            image_shape: [1, 28, 28],
            channels: vec![32, 64, 96],
            residual: false,
            features: 64,
            outputs: 10,
        }
    }
}

/// The output of a judge for N images.
#[derive(Clone, Debug)]
pub struct JudgeOutput {
    /// The features (N, D).
    pub features: Tensor,
    /// The logits (N, classes): their softmax is the probability of each class.
    pub logits: Tensor,
}

/// A classifier of images whose features compare images.
///
/// ```text
/// image ─ levels ─ mean over the pixels ─ linear ─ SiLU ─ features ─ linear ─ logits
/// ```
///
/// A level is a 3 × 3 convolution, followed by another one, or by two with a residual connection
/// around them. Group normalisation and SiLU follow each convolution.
#[derive(Clone, Debug)]
pub struct JudgeNetwork {
    image_shape: [usize; 3],
    levels: Vec<Level>,
    hidden: Linear,
    out: Linear,
}

#[derive(Clone, Debug)]
struct Level {
    first: Convolution,
    others: Vec<Convolution>,
    residual: bool,
}

/// A convolution with its normalisation.
type Convolution = (Conv2d, GroupNorm);

fn activated((convolution, norm): &Convolution, h: &FeatureMap) -> Result<FeatureMap> {
    norm.forward(&convolution.forward(h)?, Activation::Silu)
}

impl JudgeNetwork {
    /// The layers that take images or give the logits, for [`diffusion_nn::Parameters`].
    pub const OUTER_LAYERS: [&'static str; 2] = ["conv1", "out"];

    /// The network with the parameters of `vb`.
    ///
    /// # Errors
    /// If there are no levels, fewer than 2 logits, or channels that are not a multiple of 8. If a
    /// parameter is missing in `vb` or has another shape.
    pub fn new(config: &JudgeNetworkConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let &JudgeNetworkConfig { image_shape, ref channels, residual, features, outputs } = config;
        let Some(&last) = channels.last().filter(|_| outputs > 1 && features > 0) else {
            bail!("a judge needs at least one level, one feature and two logits");
        };
        let init = Initialisation::KaimingNormal;
        let mut number = 0;
        let mut convolution = |inputs, outputs, stride| {
            number += 1;
            let vb = vb.pp(format!("conv{number}"));
            let config = Conv2dConfig { stride, bias: false, init, ..Default::default() };
            let norm = group_norm(GROUPS, outputs, EPS, vb.pp("norm"))?;
            Ok::<Convolution, candle_core::Error>((conv2d(inputs, outputs, config, vb)?, norm))
        };
        let (mut levels, mut inputs) = (Vec::new(), image_shape[0]);
        for (i, &outputs) in channels.iter().enumerate() {
            let first = convolution(inputs, outputs, if i == 0 { 1 } else { 2 })?;
            let others = (0..if residual { 2 } else { 1 })
                .map(|_| convolution(outputs, outputs, 1))
                .collect::<Result<_>>()?;
            levels.push(Level { first, others, residual });
            inputs = outputs;
        }
        let linear = |name: &str, inputs, outputs| linear_with(inputs, outputs, init, vb.pp(name));
        let (hidden, out) = (linear("hidden", last, features)?, linear("out", features, outputs)?);
        Ok(Self { image_shape, levels, hidden, out })
    }

    /// The features and logits of `images` (N, C, H, W) in \[−1, 1\], in one batch; differentiable.
    ///
    /// # Errors
    /// If the images have another shape than those of the settings.
    pub fn forward(&self, images: &Tensor) -> Result<JudgeOutput> {
        if images.rank() != 4 || images.dims()[1..] != self.image_shape {
            let [channels, height, width] = self.image_shape;
            bail!(
                "the judge needs images (N, {channels}, {height}, {width}), got {:?}",
                images.shape()
            );
        }
        let mut h = FeatureMap::from_images(images)?;
        for Level { first, others, residual } in &self.levels {
            h = activated(first, &h)?;
            let before = residual.then(|| h.clone());
            for convolution in others {
                h = activated(convolution, &h)?;
            }
            if let Some(before) = before {
                h = h.add(&before)?;
            }
        }
        let pooled = h.to_images()?.flatten_from(2)?.mean(2)?;
        let features = silu(&self.hidden.forward(&pooled)?)?;
        let logits = self.out.forward(&features)?;
        Ok(JudgeOutput { features, logits })
    }
}
