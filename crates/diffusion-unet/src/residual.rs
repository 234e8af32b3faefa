//! The residual block of the simple U-Net.

use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use diffusion_kernels::{self as kernels, FeatureMap, TimeConditioning};

use crate::layers::{Conv2d, GroupNorm, Linear, conv2d, group_norm, linear};

/// Groups of every normalisation in the block.
pub(crate) const GROUPS: usize = 8;
/// PyTorch's default ε.
pub(crate) const EPS: f64 = 1e-5;

/// Twice (GroupNorm → SiLU → 3×3 convolution), with the time embedding added in between and a skip around
/// (Ho et al. 2020, appendix B): (N, Cin, H, W) and (N, time_dim) to (N, Cout, H, W).
#[derive(Clone, Debug)]
pub struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// A 1×1 convolution where the channel count changes.
    skip: Option<Conv2d>,
}

impl ResidualBlock {
    /// Parameters are named as in the PyTorch text: `conv1.0` (norm), `conv1.2` (convolution), `time_proj`, `conv2.0`,
    /// `conv2.2`, `skip`.
    ///
    /// With as many groups as channels each group is one channel, and the second normalisation removes whatever
    /// constant the time projection added: the block cannot see t. Construction warns.
    ///
    /// # Errors
    /// Channel counts that 8 groups do not divide; parameters that `vb` does not have.
    pub fn new(in_channels: usize, out_channels: usize, time_dim: usize, vb: VarBuilder<'_>) -> Result<Self> {
        if out_channels == GROUPS {
            tracing::warn!(
                block = vb.prefix(),
                "{out_channels} channels in {GROUPS} groups: the normalisation cancels the time embedding, \
                 and this block cannot see the timestep; use at least {} channels",
                2 * GROUPS
            );
        }
        Ok(Self {
            norm1: group_norm(GROUPS, in_channels, EPS, vb.pp("conv1.0"))?,
            conv1: conv2d(in_channels, out_channels, 3, 1, 1, vb.pp("conv1.2"))?,
            time_proj: linear(time_dim, out_channels, vb.pp("time_proj"))?,
            norm2: group_norm(GROUPS, out_channels, EPS, vb.pp("conv2.0"))?,
            conv2: conv2d(out_channels, out_channels, 3, 1, 1, vb.pp("conv2.2"))?,
            skip: if in_channels == out_channels {
                None
            } else {
                Some(conv2d(in_channels, out_channels, 1, 1, 0, vb.pp("skip"))?)
            },
        })
    }

    /// `x` (N, Cin, H, W), `time` (N, time_dim), to (N, Cout, H, W).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &FeatureMap, time: &Tensor) -> Result<FeatureMap> {
        let block = kernels::ResidualBlock {
            groups: GROUPS,
            eps: EPS,
            conditioning: TimeConditioning::Add,
            norm1: self.norm1.parameters(),
            conv1: self.conv1.parameters(),
            norm2: self.norm2.parameters(),
            conv2: self.conv2.parameters(),
            skip: self.skip.as_ref().map(Conv2d::parameters),
        };
        x.residual_block(&self.time_proj.forward(time)?, &block)
    }
}
