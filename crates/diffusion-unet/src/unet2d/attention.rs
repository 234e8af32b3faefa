//! Self-attention over the pixels of an image.

use candle_core::Result;
use candle_nn::VarBuilder;
use diffusion_kernels::{Activation, FeatureMap};

use crate::layers::{GroupNorm, Linear, group_norm, linear};
use crate::unet2d::config::UNet2DConfig;

/// GroupNorm, attention of every pixel to every other (Vaswani et al. 2017, eq. 1; Ho et al. 2020, appendix B), and
/// the input added: (N, C, H, W) to the same.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    heads: usize,
    group_norm: Option<GroupNorm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    /// Attention over `channels` channels that are normalised in `groups` groups, or not at all.
    ///
    /// # Errors
    /// Parameters that `vb` does not have.
    pub(crate) fn new(
        config: &UNet2DConfig,
        channels: usize,
        groups: Option<usize>,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let head = config.attention_head_dim.unwrap_or(channels);
        let heads = channels / head;
        // Below `channels` where the heads do not fill them.
        let inner = heads * head;
        let norm = |groups| group_norm(groups, channels, config.norm_eps, vb.pp("group_norm"));
        Ok(Self {
            heads,
            group_norm: groups.map(norm).transpose()?,
            to_q: linear(channels, inner, vb.pp("to_q"))?,
            to_k: linear(channels, inner, vb.pp("to_k"))?,
            to_v: linear(channels, inner, vb.pp("to_v"))?,
            to_out: linear(inner, channels, vb.pp("to_out.0"))?,
        })
    }

    /// `x` (N, C, H, W).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(crate) fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        let normed = match &self.group_norm {
            Some(norm) => norm.forward(x, Activation::Identity)?,
            None => x.clone(),
        };
        let [q, k, v] = [&self.to_q, &self.to_k, &self.to_v].map(|layer| layer.forward_pixels(&normed));
        self.to_out.forward_pixels(&q?.attention(&k?, &v?, self.heads)?)?.add(x)
    }
}
