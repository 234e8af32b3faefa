//! The layers of diffusion networks, their named parameters and how these begin.
//!
//! A layer owns its parameters, asks a [`VarBuilder`](candle_nn::VarBuilder) for them by name, and
//! leaves the arithmetic to `diffusion-kernels`. It takes and gives a
//! [`FeatureMap`](diffusion_kernels::FeatureMap) where images pass through it, a tensor where vectors
//! do. [`Parameters`] are the trainable variables of a network, [`load_frozen`] builds a network that is
//! only used, and [`count_parameters`] one without numbers.
//!
//! This crate knows no whole network, no schedule, no loss and no sampler.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use diffusion_kernels::{Activation, FeatureMap};
//! use diffusion_nn::{Conv2dConfig, Parameters, conv2d, group_norm};
//!
//! let ((conv, norm), parameters) = Parameters::initialise(0, &Device::Cpu, |vb| {
//!     let conv = conv2d(3, 16, Conv2dConfig { stride: 2, ..Conv2dConfig::default() }, vb.pp("conv"))?;
//!     Ok((conv, group_norm(8, 16, 1e-5, vb.pp("norm"))?))
//! })?;
//! let images = Tensor::ones((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
//! let hidden = norm.forward(&conv.forward(&FeatureMap::from_images(&images)?)?, Activation::Silu)?;
//! assert_eq!(hidden.to_images()?.dims(), [2, 16, 4, 4]);
//! assert_eq!(parameters.count(), 16 * 3 * 9 + 16 + 2 * 16);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod attention;
mod convolution;
mod dropout;
mod embedding;
mod initialisation;
mod linear;
mod norm;
mod parameters;
mod residual;

pub use attention::{Attention, AttentionConfig};
pub use convolution::{Conv2d, Conv2dConfig, ConvTranspose2d, conv_transpose2d, conv2d};
pub use dropout::{Dropout, DropoutNoise};
pub use embedding::{
    ClassEmbedding, FourierEmbedding, TimeEmbedding, TimeFeatures, TimestepEmbedding,
};
pub use initialisation::Initialisation;
pub use linear::{Linear, linear, linear_with};
pub use norm::{GroupNorm, group_norm};
pub use parameters::{ParameterError, Parameters, count_parameters, load_frozen, part_of};
pub use residual::{Resample, ResidualBlock, ResidualBlockConfig, ResidualBlockNames};
