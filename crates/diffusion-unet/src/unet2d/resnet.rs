//! The residual block of the configurable U-Net.

use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use diffusion_kernels::{self as kernels, Activation, FeatureMap, TimeConditioning};

use crate::dropout::Dropout;
use crate::layers::{Conv2d, GroupNorm, Linear, conv2d, group_norm, linear};
use crate::unet2d::config::UNet2DConfig;

/// What all residual blocks of one forward pass see.
pub(crate) struct Pass {
    /// The time embedding after its activation, (N, time width).
    pub(crate) time: Tensor,
    /// What training removes.
    pub(crate) dropout: Option<Dropout>,
}

/// A change of size inside a block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resample {
    /// Means of 2 × 2 pixels.
    Halve,
    /// Each pixel four times.
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

/// Twice (GroupNorm → SiLU → 3×3 convolution) with the time embedding in between and a skip around (Ho et al. 2020,
/// appendix B; with a resampling before the first convolution and on the skip, Song et al. 2021): (N, Cin, H, W) to
/// (N, Cout, H', W').
#[derive(Clone, Debug)]
pub(crate) struct ResnetBlock {
    groups: usize,
    eps: f64,
    conditioning: TimeConditioning,
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// A 1×1 convolution where the channel count changes.
    conv_shortcut: Option<Conv2d>,
    resample: Option<Resample>,
}

impl ResnetBlock {
    /// A block from `inputs` to `outputs` channels.
    ///
    /// # Errors
    /// Parameters that `vb` does not have.
    pub(crate) fn new(
        config: &UNet2DConfig,
        inputs: usize,
        outputs: usize,
        resample: Option<Resample>,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        let conditioning = config.resnet_time_scale_shift.conditioning();
        Ok(Self {
            groups,
            eps,
            conditioning,
            norm1: group_norm(groups, inputs, eps, vb.pp("norm1"))?,
            conv1: conv2d(inputs, outputs, 3, 1, 1, vb.pp("conv1"))?,
            time_emb_proj: linear(config.time_width(), conditioning.width(outputs), vb.pp("time_emb_proj"))?,
            norm2: group_norm(groups, outputs, eps, vb.pp("norm2"))?,
            conv2: conv2d(outputs, outputs, 3, 1, 1, vb.pp("conv2"))?,
            conv_shortcut: if inputs == outputs {
                None
            } else {
                Some(conv2d(inputs, outputs, 1, 1, 0, vb.pp("conv_shortcut"))?)
            },
            resample,
        })
    }

    /// `x` (N, Cin, H, W).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(crate) fn forward(&self, x: &FeatureMap, pass: &mut Pass) -> Result<FeatureMap> {
        let embedding = self.time_emb_proj.forward(&pass.time)?;
        if self.resample.is_some() || pass.dropout.is_some() {
            return self.forward_by_layers(x, &embedding, pass.dropout.as_mut());
        }
        let block = kernels::ResidualBlock {
            groups: self.groups,
            eps: self.eps,
            conditioning: self.conditioning,
            norm1: self.norm1.parameters(),
            conv1: self.conv1.parameters(),
            norm2: self.norm2.parameters(),
            conv2: self.conv2.parameters(),
            skip: self.conv_shortcut.as_ref().map(Conv2d::parameters),
        };
        x.residual_block(&embedding, &block)
    }

    /// What the fused block cannot do: change of size, dropout.
    fn forward_by_layers(
        &self,
        x: &FeatureMap,
        embedding: &Tensor,
        dropout: Option<&mut Dropout>,
    ) -> Result<FeatureMap> {
        let resampled = |x: FeatureMap| self.resample.map_or(Ok(x.clone()), |resample| resample.forward(&x));
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
        match &self.conv_shortcut {
            Some(shortcut) => hidden.add(&shortcut.forward(&x)?),
            None => hidden.add(&x),
        }
    }
}
