//! The layers of diffusion networks, their named parameters and the initialisation of these.
//!
//! - [`Conv2d`], [`ConvTranspose2d`], [`GroupNorm`], [`Attention`] and [`ResidualBlock`]: layers
//!   for images, from [`FeatureMap`](diffusion_kernels::FeatureMap) to `FeatureMap`.
//! - [`Linear`], [`TimeEmbedding`] and [`ClassEmbedding`]: layers that give vectors, as tensors.
//! - [`Dropout`]: dropout that depends on the seed, the step and the image's index only.
//! - [`Parameters`]: the trainable parameters of a network, by name.
//! - [`load_frozen`]: builds a network from given tensors for inference, without gradients.
//! - [`count_parameters`]: counts the parameters of a network without allocating them.
//!
//! A layer gets its parameters by name from a candle [`VarBuilder`](candle_nn::VarBuilder) and
//! calls the kernels of `diffusion-kernels`. This crate has no complete network, no schedule, no
//! loss and no sampler.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use diffusion_kernels::{Activation, FeatureMap};
//! use diffusion_nn::{Conv2dConfig, Parameters, conv2d, group_norm};
//!
//! let ((conv, norm), parameters) = Parameters::initialise(0, &Device::Cpu, |vb| {
//!     let config = Conv2dConfig { stride: 2, ..Conv2dConfig::default() };
//!     let conv = conv2d(3, 16, config, vb.pp("conv"))?;
//!     Ok((conv, group_norm(8, 16, 1e-5, vb.pp("norm"))?))
//! })?;
//! let images = Tensor::ones((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
//! let hidden = conv.forward(&FeatureMap::from_images(&images)?)?;
//! let hidden = norm.forward(&hidden, Activation::Silu)?;
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
pub use linear::{Linear, linear, linear_no_bias, linear_with};
pub use norm::{GroupNorm, group_norm};
pub use parameters::{ParameterError, Parameters, count_parameters, load_frozen, part_name};
pub use residual::{Resample, ResidualBlock, ResidualBlockConfig, ResidualBlockNames};
