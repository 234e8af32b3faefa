//! Residual blocks, and the parameter names of both families of networks.

use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use diffusion_kernels::{self as kernels, Activation, FeatureMap, TimeConditioning};

use crate::{Conv2d, Conv2dConfig, Dropout, GroupNorm, Linear, conv2d, group_norm, linear};

/// A change of the image size inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// Average pooling over 2 × 2 pixels.
    Halve,
    /// Nearest-neighbour upsampling: each pixel becomes 2 × 2.
    Double,
}

impl Resample {
    fn forward(self, x: &FeatureMap) -> Result<FeatureMap> {
        match self {
            Self::Halve => x.avg_pool2(),
            Self::Double => x.upsample_nearest2(),
        }
    }
}

/// The names of the layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResidualBlockNames {
    /// The first normalisation.
    pub norm1: &'static str,
    /// The first convolution.
    pub conv1: &'static str,
    /// The projection of the time embedding.
    pub time: &'static str,
    /// The second normalisation.
    pub norm2: &'static str,
    /// The second convolution.
    pub conv2: &'static str,
    /// The 1×1 convolution of the skip connection.
    pub skip: &'static str,
}

impl ResidualBlockNames {
    /// The names in PyTorch for two `nn.Sequential(GroupNorm, SiLU, Conv2d)`.
    pub const SEQUENTIAL: Self = Self {
        norm1: "conv1.0",
        conv1: "conv1.2",
        time: "time_proj",
        norm2: "conv2.0",
        conv2: "conv2.2",
        skip: "skip",
    };

    /// The names of `ResnetBlock2D` in diffusers.
    pub const DIFFUSERS: Self = Self {
        norm1: "norm1",
        conv1: "conv1",
        time: "time_emb_proj",
        norm2: "norm2",
        conv2: "conv2",
        skip: "conv_shortcut",
    };
}

/// The settings of a [`ResidualBlock`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResidualBlockConfig {
    /// Groups of both normalisations.
    pub groups: usize,
    /// The ε that both normalisations add to the variance.
    pub eps: f64,
    /// Width of the time embedding.
    pub time_dim: usize,
    /// How the time embedding enters the block.
    pub conditioning: TimeConditioning,
    /// A change of size before the first convolution and on the skip connection (Song et al. 2021).
    pub resample: Option<Resample>,
    /// The names of the parameters.
    pub names: ResidualBlockNames,
}

/// A residual block with a time embedding: (N, Cin, H, W) and (N, time_dim) to (N, Cout, H', W')
/// (Ho et al. 2020, appendix B).
///
/// It is twice (GroupNorm → SiLU → 3×3 convolution), with the time embedding between the two and a
/// skip connection around them.
#[derive(Clone, Debug)]
pub struct ResidualBlock {
    conditioning: TimeConditioning,
    resample: Option<Resample>,
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// A 1×1 convolution if the number of channels changes.
    skip: Option<Conv2d>,
}

impl ResidualBlock {
    /// A block from `in_channels` to `out_channels` channels, with parameters from `vb`.
    ///
    /// If there are as many groups as output channels, the second normalisation removes what
    /// [`TimeConditioning::Add`] added, and the block cannot see the time.
    ///
    /// # Errors
    /// - If the groups do not divide `in_channels` or `out_channels`.
    /// - If `vb` does not have a parameter, or has it in another shape.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        config: &ResidualBlockConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let &ResidualBlockConfig { groups, eps, time_dim, conditioning, resample, names } = config;
        let conv =
            |inputs, name| conv2d(inputs, out_channels, Conv2dConfig::default(), vb.pp(name));
        let skip =
            || conv2d(in_channels, out_channels, Conv2dConfig::pointwise(), vb.pp(names.skip));
        Ok(Self {
            conditioning,
            resample,
            norm1: group_norm(groups, in_channels, eps, vb.pp(names.norm1))?,
            conv1: conv(in_channels, names.conv1)?,
            time: linear(time_dim, conditioning.width(out_channels), vb.pp(names.time))?,
            norm2: group_norm(groups, out_channels, eps, vb.pp(names.norm2))?,
            conv2: conv(out_channels, names.conv2)?,
            skip: (in_channels != out_channels).then(skip).transpose()?,
        })
    }

    /// The output (N, Cout, H', W') for `x` (N, Cin, H, W) and the time embedding `time`
    /// (N, time_dim). `dropout` acts before the second convolution.
    ///
    /// # Errors
    /// - If the number of channels or images is not as expected.
    /// - With [`Resample::Halve`], if a side is odd.
    pub fn forward(
        &self,
        x: &FeatureMap,
        time: &Tensor,
        dropout: Option<&mut Dropout>,
    ) -> Result<FeatureMap> {
        let embedding = self.time.forward(time)?;
        match self.fused() {
            Some(block) if dropout.is_none() => x.residual_block(&embedding, &block),
            _ => self.forward_by_layers(x, &embedding, dropout),
        }
    }

    /// The parameters of the fused kernel. `None` if the block changes the size or a convolution
    /// has no bias, which the fused kernel does not support.
    fn fused(&self) -> Option<kernels::ResidualBlock<'_>> {
        if self.resample.is_some() {
            return None;
        }
        Some(kernels::ResidualBlock {
            groups: self.norm1.groups,
            eps: self.norm1.eps,
            conditioning: self.conditioning,
            norm1: self.norm1.parameters(),
            conv1: self.conv1.parameters()?,
            norm2: self.norm2.parameters(),
            conv2: self.conv2.parameters()?,
            skip: match &self.skip {
                Some(skip) => Some(skip.parameters()?),
                None => None,
            },
        })
    }

    fn forward_by_layers(
        &self,
        x: &FeatureMap,
        embedding: &Tensor,
        dropout: Option<&mut Dropout>,
    ) -> Result<FeatureMap> {
        let resampled = |x: FeatureMap| match self.resample {
            Some(resample) => resample.forward(&x),
            None => Ok(x),
        };
        let hidden = resampled(self.norm1.forward(x, Activation::Silu)?)?;
        let hidden = self.conv1.forward(&hidden)?;
        let (hidden, modulation) = match self.conditioning {
            TimeConditioning::Add => (hidden.add_channel_embedding(embedding)?, None),
            TimeConditioning::ScaleShift => (hidden, Some(embedding)),
        };
        let mut hidden = self.norm2.forward_modulated(&hidden, modulation, Activation::Silu)?;
        if let Some(dropout) = dropout {
            hidden = dropout.forward(&hidden)?;
        }
        let hidden = self.conv2.forward(&hidden)?;
        let x = resampled(x.clone())?;
        match &self.skip {
            Some(skip) => hidden.add(&skip.forward(&x)?),
            None => hidden.add(&x),
        }
    }
}
