//! Convolutions and transposed convolutions.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use diffusion_kernels::{FeatureMap, Padding};

use crate::Initialisation;

/// The settings of a square convolution. Default: 3×3, stride 1, padding 1, with bias,
/// [`Initialisation::PyTorch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Height and width of the kernel.
    pub kernel: usize,
    /// The distance between two outputs, in pixels.
    pub stride: usize,
    /// The zeros added around the images, in pixels.
    pub padding: Padding,
    /// Whether the convolution has a bias, one number per output channel.
    pub bias: bool,
    /// The initial values.
    pub init: Initialisation,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Self {
            kernel: 3,
            stride: 1,
            padding: 1.into(),
            bias: true,
            init: Initialisation::default(),
        }
    }
}

impl Conv2dConfig {
    /// The settings of a 1×1 convolution without padding. The others are the defaults.
    pub fn pointwise() -> Self {
        Self { kernel: 1, padding: 0.into(), ..Self::default() }
    }
}

/// A 2-D convolution: (N, Cin, H, W) to (N, Cout, H', W').
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: Padding,
}

/// A convolution with the parameters `weight` (Cout, Cin, K, K) and, if `config` has it, `bias`
/// (Cout).
///
/// # Errors
/// If `vb` does not have a parameter, or has it in another shape.
pub fn conv2d(
    in_channels: usize,
    out_channels: usize,
    config: Conv2dConfig,
    vb: VarBuilder<'_>,
) -> Result<Conv2d> {
    let Conv2dConfig { kernel, stride, padding, bias, init } = config;
    let fan_in = in_channels * kernel * kernel;
    let bias = bias.then(|| vb.get_with_hints(out_channels, "bias", init.bias(fan_in)));
    Ok(Conv2d {
        weight: vb.get_with_hints(
            (out_channels, in_channels, kernel, kernel),
            "weight",
            init.weight(fan_in),
        )?,
        bias: bias.transpose()?,
        stride,
        padding,
    })
}

impl Conv2d {
    /// A convolution with the given values: `weight` (Cout, Cin, K, K), `bias` (Cout).
    pub fn from_tensors(
        weight: Tensor,
        bias: Option<Tensor>,
        stride: usize,
        padding: impl Into<Padding>,
    ) -> Self {
        Self { weight, bias, stride, padding: padding.into() }
    }

    /// Applies the convolution to `x` (N, Cin, H, W).
    ///
    /// # Errors
    /// - If `x` does not have Cin channels.
    /// - If the images are smaller than the kernel.
    pub fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        x.conv2d(&self.weight, self.bias.as_ref(), self.stride, self.padding)
    }

    /// Whether the weights need gradients.
    pub fn is_trainable(&self) -> bool {
        self.weight.track_op()
    }

    /// The number of output channels.
    pub(crate) fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Weight and bias, for fused operations over several layers. `None` if there is no bias.
    pub(crate) fn parameters(&self) -> Option<(&Tensor, &Tensor)> {
        Some((&self.weight, self.bias.as_ref()?))
    }
}

/// A transposed 2-D convolution: (N, Cin, H, W) to (N, Cout, H', W') with
/// H' = (H−1)·stride − 2·padding + K, and W' likewise.
#[derive(Clone, Debug)]
pub struct ConvTranspose2d {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: usize,
}

/// A square transposed convolution with the parameters `weight` (Cin, Cout, K, K) and `bias`
/// (Cout).
///
/// # Errors
/// If `vb` does not have a parameter, or has it in another shape.
pub fn conv_transpose2d(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    vb: VarBuilder<'_>,
) -> Result<ConvTranspose2d> {
    // PyTorch computes the fan-in from the weight's second axis, which here is the output's.
    let (init, fan_in) = (Initialisation::PyTorch, out_channels * kernel * kernel);
    Ok(ConvTranspose2d {
        weight: vb.get_with_hints(
            (in_channels, out_channels, kernel, kernel),
            "weight",
            init.weight(fan_in),
        )?,
        bias: vb.get_with_hints(out_channels, "bias", init.bias(fan_in))?,
        stride,
        padding,
    })
}

impl ConvTranspose2d {
    /// Applies the transposed convolution to `x` (N, Cin, H, W).
    ///
    /// # Errors
    /// If `x` does not have Cin channels.
    pub fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        x.conv_transpose2d(&self.weight, Some(&self.bias), self.stride, self.padding)
    }
}
