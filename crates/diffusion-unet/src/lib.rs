//! U-Nets for diffusion models, their configurations and an analysis of their cost.
//!
//! - [`SimpleUNet`]: a small network for teaching, with two levels.
//! - [`UNet2D`]: a configurable network with attention and classes, like `UNet2DModel` of
//!   diffusers.
//! - [`NetworkConfig`]: the description of either network, as data. Checkpoints contain it.
//! - [`NoisyClassifier`]: half a U-Net that predicts the classes of noisy images.
//! - [`NetworkAnalysis`]: the parameters, multiply-adds and memory of a network.
//! - [`UNetSketch`]: the same arithmetic for a U-Net with one convolution per level.
//!
//! The networks implement `Network` of `diffusion-process` with the layers of `diffusion-nn`: from
//! noisy images and timesteps to an output of the same height and width. This crate has no
//! schedule, no loss and no sampler, and it does not decide what the output means.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use diffusion_nn::Parameters;
//! use diffusion_process::Network;
//! use diffusion_unet::{SimpleUNet, SimpleUNetConfig};
//!
//! let config =
//!     SimpleUNetConfig { in_channels: 1, base_channels: 16, time_dim: 32, ..Default::default() };
//! let (unet, parameters) =
//!     Parameters::initialise(0, &Device::Cpu, |vb| SimpleUNet::new(&config, vb))?;
//!
//! let x_t = Tensor::zeros((2, 1, 28, 28), DType::F32, &Device::Cpu)?;
//! let noise = unet.forward(&x_t, &Tensor::new(&[3f32, 150.0], &Device::Cpu)?)?;
//! assert_eq!(noise.dims(), x_t.dims());
//! println!("{} parameters", parameters.count());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod analysis;
mod classifier;
mod conditioning;
mod config;
mod simple;
mod unet2d;

pub use analysis::{NetworkAnalysis, NetworkPart, SketchLevel, UNetSketch};
pub use classifier::{NoisyClassifier, NoisyClassifierConfig};
pub use conditioning::AUGMENTATION_LABELS;
pub use config::{NetworkConfig, TrainingNetwork};
pub use simple::{SimpleUNet, SimpleUNetConfig};
pub use unet2d::{
    DownBlockType, ResampleType, TimeEmbeddingType, TimeScaleShift, UNet2D, UNet2DConfig,
    UpBlockType,
};
