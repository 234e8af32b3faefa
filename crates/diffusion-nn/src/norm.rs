//! Group normalisation.

use candle_core::{Error, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use diffusion_kernels::{self as kernels, Activation, FeatureMap};

/// Group normalisation over (N, C, H, W) with an affine transform a channel (Wu & He 2018).
#[derive(Clone, Debug)]
pub struct GroupNorm {
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    weight: Tensor,
    bias: Tensor,
}

/// Normalisation of `channels` channels in `groups` groups, with `eps` added to the variance. Parameters
/// `weight` (C), which begins with ones, and `bias` (C), which begins with zeros.
///
/// # Errors
/// `groups` that do not divide `channels`, both named; a parameter that `vb` does not have or has in
/// another shape.
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
    /// `x` (N, C, H, W).
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, x: &FeatureMap, activation: Activation) -> Result<FeatureMap> {
        self.forward_modulated(x, None, activation)
    }

    /// `x` (N, C, H, W); `modulation` (N, 2·C) holds each image's scales and then its shifts, see
    /// [`kernels::GroupNorm`].
    ///
    /// # Errors
    /// Another number of channels.
    pub(crate) fn forward_modulated(
        &self,
        x: &FeatureMap,
        modulation: Option<&Tensor>,
        activation: Activation,
    ) -> Result<FeatureMap> {
        let &Self { groups, eps, ref weight, ref bias } = self;
        x.group_norm(&kernels::GroupNorm { groups, eps, weight, bias, modulation, activation })
    }

    /// Weight and bias, for operations that compute more than this layer at once.
    pub(crate) fn parameters(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }
}
