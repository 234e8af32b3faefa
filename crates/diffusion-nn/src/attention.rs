//! Self-attention over the pixels of an image.

use candle_core::Result;
use candle_nn::VarBuilder;
use diffusion_kernels::{Activation, FeatureMap};

use crate::{GroupNorm, Linear, group_norm, linear};

/// The settings of an [`Attention`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionConfig {
    /// Channels of the feature maps.
    pub channels: usize,
    /// Channels of a head, 1 to `channels`. The number of heads is `channels / head_channels`,
    /// rounded down. `None`: one head.
    pub head_channels: Option<usize>,
    /// Groups of the normalisation before the attention. `None`: no normalisation.
    pub groups: Option<usize>,
    /// The ε that the normalisation adds to the variance.
    pub eps: f64,
}

/// Self-attention with a group normalisation before it and a skip connection around both (Vaswani
/// et al. 2017, eq. 1; Ho et al. 2020, appendix B).
///
/// Every pixel attends to every other. The shape (N, C, H, W) stays the same.
#[derive(Clone, Debug)]
pub struct Attention {
    heads: usize,
    group_norm: Option<GroupNorm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    /// The layer with parameters from `vb`, named as in diffusers: `group_norm`, `to_q`, `to_k`,
    /// `to_v`, `to_out.0`.
    ///
    /// # Errors
    /// - If `groups` does not divide `channels`.
    /// - If `vb` does not have a parameter, or has it in another shape.
    pub fn new(config: &AttentionConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let &AttentionConfig { channels, head_channels, groups, eps } = config;
        let head = head_channels.unwrap_or(channels);
        let heads = channels / head;
        // Less than `channels` if the heads do not fill them.
        let inner = heads * head;
        let norm = |groups| group_norm(groups, channels, eps, vb.pp("group_norm"));
        Ok(Self {
            heads,
            group_norm: groups.map(norm).transpose()?,
            to_q: linear(channels, inner, vb.pp("to_q"))?,
            to_k: linear(channels, inner, vb.pp("to_k"))?,
            to_v: linear(channels, inner, vb.pp("to_v"))?,
            to_out: linear(inner, channels, vb.pp("to_out.0"))?,
        })
    }

    /// Applies the attention to `x` (N, C, H, W).
    ///
    /// # Errors
    /// If `x` does not have C channels.
    pub fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        let normed = match &self.group_norm {
            Some(norm) => norm.forward(x, Activation::Identity)?,
            None => x.clone(),
        };
        let [q, k, v] =
            [&self.to_q, &self.to_k, &self.to_v].map(|layer| layer.forward_pixels(&normed));
        self.to_out.forward_pixels(&q?.attention(&k?, &v?, self.heads)?)?.add(x)
    }
}
