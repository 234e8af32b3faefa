//! Fully connected layers.

use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use diffusion_kernels::{self as kernels, FeatureMap};

use crate::Initialisation;

/// A fully connected layer: (N, Din) to (N, Dout).
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

/// A fully connected layer with the parameters `weight` (Dout, Din) and `bias` (Dout), initialised
/// as in PyTorch.
///
/// # Errors
/// If `vb` does not have a parameter, or has it in another shape.
pub fn linear(in_features: usize, out_features: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    linear_with(in_features, out_features, Initialisation::PyTorch, vb)
}

/// A fully connected layer with the parameters `weight` (Dout, Din) and `bias` (Dout), and with the
/// initialisation `init`.
///
/// # Errors
/// If `vb` does not have a parameter, or has it in another shape.
pub fn linear_with(
    in_features: usize,
    out_features: usize,
    init: Initialisation,
    vb: VarBuilder<'_>,
) -> Result<Linear> {
    Ok(Linear {
        weight: vb.get_with_hints(
            (out_features, in_features),
            "weight",
            init.weight(in_features),
        )?,
        bias: vb.get_with_hints(out_features, "bias", init.bias(in_features))?,
    })
}

/// A fully connected layer with the parameter `weight` (Dout, Din), initialised as in PyTorch, and
/// without a bias: zeros give zeros.
///
/// # Errors
/// If `vb` does not have the parameter, or has it in another shape.
pub fn linear_no_bias(
    in_features: usize,
    out_features: usize,
    vb: VarBuilder<'_>,
) -> Result<Linear> {
    let init = Initialisation::PyTorch.weight(in_features);
    let weight = vb.get_with_hints((out_features, in_features), "weight", init)?;
    Ok(Linear { bias: Tensor::zeros(out_features, weight.dtype(), weight.device())?, weight })
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::linear(x, &self.weight, &self.bias)
    }
}

impl Linear {
    /// Applies the layer to the channels of each pixel: (N, Din, H, W) to (N, Dout, H, W).
    ///
    /// # Errors
    /// If `x` does not have Din channels.
    pub(crate) fn forward_pixels(&self, x: &FeatureMap) -> Result<FeatureMap> {
        x.conv2d(&self.weight, Some(&self.bias), 1, 0)
    }
}
