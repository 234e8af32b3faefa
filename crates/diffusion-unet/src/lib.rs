//! Noise-prediction U-Nets, as networks and as data.
//!
//! A network here is a [`diffusion_process::Network`]: noisy images and timesteps in, an output of the images' shape
//! out. [`SimpleUNet`] is the small teaching network, [`UNet2D`] the configurable one with attention and classes;
//! [`NetworkConfig`] is the data that describes either, the form in which checkpoints carry it. [`NoisyClassifier`] is half a U-Net that
//! predicts classes. Layers and parameters are those of `diffusion-nn`.
//!
//! This crate knows no schedule, no loss and no sampler, and it does not decide what its output means.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use diffusion_nn::Parameters;
//! use diffusion_process::Network;
//! use diffusion_unet::{SimpleUNet, SimpleUNetConfig};
//!
//! let config = SimpleUNetConfig { in_channels: 1, base_channels: 16, time_dim: 32, ..Default::default() };
//! let (unet, parameters) = Parameters::initialise(0, &Device::Cpu, |vb| SimpleUNet::new(&config, vb))?;
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
pub use config::{NetworkConfig, TrainingNetwork};
pub use simple::{SimpleUNet, SimpleUNetConfig};
pub use unet2d::{
    DownBlockType, ResampleType, TimeEmbeddingType, TimeScaleShift, UNet2D, UNet2DConfig,
    UpBlockType,
};
