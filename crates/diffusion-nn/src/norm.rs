//! Group normalisation.

use candle_core::{Error, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use diffusion_kernels::{self as kernels, Activation, FeatureMap};

/// Group normalisation of (N, C, H, W) with a weight and a bias per channel (Wu & He 2018).
#[derive(Clone, Debug)]
pub struct GroupNorm {
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    weight: Tensor,
    bias: Tensor,
}

/// A normalisation of `channels` channels in `groups` groups, with `eps` added to the variance.
/// Parameters `weight` (C), initialised with ones, and `bias` (C), initialised with zeros.
///
/// # Errors
/// - If `groups` is 0 or does not divide `channels`. The error gives both.
/// - If `vb` does not have a parameter, or has it in another shape.
pub fn group_norm(
    groups: usize,
    channels: usize,
    eps: f64,
    vb: VarBuilder<'_>,
) -> Result<GroupNorm> {
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(Error::Msg(format!(
            "group norm: {channels} channels do not divide into {groups} groups"
        )));
    }
    Ok(GroupNorm {
        groups,
        eps,
        weight: vb.get_with_hints(channels, "weight", Init::Const(1.0))?,
        bias: vb.get_with_hints(channels, "bias", Init::Const(0.0))?,
    })
}

impl GroupNorm {
    /// Normalises `x` (N, C, H, W), then applies `activation`.
    ///
    /// # Errors
    /// If `x` does not have C channels.
    pub fn forward(&self, x: &FeatureMap, activation: Activation) -> Result<FeatureMap> {
        self.forward_modulated(x, None, activation)
    }

    /// Normalises `x` (N, C, H, W), scales and shifts it by `modulation`, then applies
    /// `activation`. `modulation` (N, 2·C) has the scales of each image and then its shifts, see
    /// [`kernels::GroupNorm`].
    ///
    /// # Errors
    /// If `x` does not have C channels.
    pub(crate) fn forward_modulated(
        &self,
        x: &FeatureMap,
        modulation: Option<&Tensor>,
        activation: Activation,
    ) -> Result<FeatureMap> {
        let &Self { groups, eps, ref weight, ref bias } = self;
        x.group_norm(&kernels::GroupNorm { groups, eps, weight, bias, modulation, activation })
    }

    /// Weight and bias, for fused operations over several layers.
    pub(crate) fn parameters(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }
}
