//! The four layers that everything else is made of. Each owns its parameters, starts from PyTorch's default
//! initialisation and leaves the arithmetic to one function of `diffusion-kernels`.

use candle_core::{Error, Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use diffusion_kernels::{self as kernels, Activation, FeatureMap, Padding};

/// PyTorch's default for weights and biases, Kaiming-uniform with a = √5: uniform in ±1/√fan_in.
fn pytorch_uniform(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// 2-D convolution: (N, Cin, H, W) to (N, Cout, H', W').
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: Padding,
}

/// A square convolution with bias; `weight` is (Cout, Cin, K, K).
///
/// # Errors
/// A parameter that `vb` does not have or has in another shape.
pub fn conv2d(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    padding: impl Into<Padding>,
    vb: VarBuilder<'_>,
) -> Result<Conv2d> {
    initialised(in_channels, out_channels, kernel, (stride, padding.into()), pytorch_uniform, vb)
}

/// As [`conv2d`], with a weight and a bias that begin with zeros.
///
/// # Errors
/// As there.
pub(crate) fn zero_conv2d(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    padding: impl Into<Padding>,
    vb: VarBuilder<'_>,
) -> Result<Conv2d> {
    initialised(in_channels, out_channels, kernel, (stride, padding.into()), |_| Init::Const(0.0), vb)
}

fn initialised(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    (stride, padding): (usize, Padding),
    init: impl Fn(usize) -> Init,
    vb: VarBuilder<'_>,
) -> Result<Conv2d> {
    let init = init(in_channels * kernel * kernel);
    Ok(Conv2d {
        weight: vb.get_with_hints((out_channels, in_channels, kernel, kernel), "weight", init)?,
        bias: vb.get_with_hints(out_channels, "bias", init)?,
        stride,
        padding,
    })
}

impl Conv2d {
    /// `x` (N, Cin, H, W).
    ///
    /// # Errors
    /// Another number of channels; images smaller than the kernel.
    pub fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        x.conv2d(&self.weight, Some(&self.bias), self.stride, self.padding)
    }

    /// Weight and bias, for operations that compute more than this layer at once.
    pub(crate) fn parameters(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }
}

/// Transposed 2-D convolution: (N, Cin, H, W) to (N, Cout, (H−1)·stride − 2·padding + K, …).
#[derive(Clone, Debug)]
pub struct ConvTranspose2d {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: usize,
}

/// A square transposed convolution with bias; `weight` is (Cin, Cout, K, K).
///
/// # Errors
/// A parameter that `vb` does not have or has in another shape.
pub fn conv_transpose2d(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    vb: VarBuilder<'_>,
) -> Result<ConvTranspose2d> {
    // PyTorch takes the weight's second axis for the fan-in, which here is the output's.
    let init = pytorch_uniform(out_channels * kernel * kernel);
    Ok(ConvTranspose2d {
        weight: vb.get_with_hints((in_channels, out_channels, kernel, kernel), "weight", init)?,
        bias: vb.get_with_hints(out_channels, "bias", init)?,
        stride,
        padding,
    })
}

impl ConvTranspose2d {
    /// `x` (N, Cin, H, W).
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        x.conv_transpose2d(&self.weight, Some(&self.bias), self.stride, self.padding)
    }
}

/// Fully connected: (N, Din) to (N, Dout).
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

/// A fully connected layer with bias; `weight` is (Dout, Din).
///
/// # Errors
/// A parameter that `vb` does not have or has in another shape.
pub fn linear(in_features: usize, out_features: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    let init = pytorch_uniform(in_features);
    Ok(Linear {
        weight: vb.get_with_hints((out_features, in_features), "weight", init)?,
        bias: vb.get_with_hints(out_features, "bias", init)?,
    })
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::linear(x, &self.weight, &self.bias)
    }
}

impl Linear {
    /// The layer on the channels of each pixel: (N, Din, H, W) to (N, Dout, H, W).
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward_pixels(&self, x: &FeatureMap) -> Result<FeatureMap> {
        let (outputs, inputs) = self.weight.dims2()?;
        x.conv2d(&self.weight.reshape((outputs, inputs, 1, 1))?, Some(&self.bias), 1, 0)
    }
}

/// Group normalisation over (N, C, H, W) with an affine transform a channel (Wu & He 2018).
#[derive(Clone, Debug)]
pub struct GroupNorm {
    groups: usize,
    eps: f64,
    weight: Tensor,
    bias: Tensor,
}

/// Normalisation of `channels` channels in `groups` groups.
///
/// # Errors
/// `groups` that do not divide `channels`, both named; a parameter that `vb` does not have or has in another shape.
pub fn group_norm(groups: usize, channels: usize, eps: f64, vb: VarBuilder<'_>) -> Result<GroupNorm> {
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
    pub fn forward_modulated(
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
