//! Diffusion models: load a trained model, choose sampler, steps, class and seed, and get images.
//!
//! - [`Model`]: a trained model, opened from a path.
//! - [`Images`]: a request for images of a model, built step by step.
//! - Re-exported crates, from the bottom up: [`random`], [`files`], [`schedule`], [`process`],
//!   [`nn`], [`unet`], [`sample`], [`picture`] and [`model`]. With the features of the same names
//!   also `data`, `hub`, `eval`, `interop`, `train` and `report`. Each of these crates can be used
//!   alone.
//!
//! This crate contains no algorithms of its own. With default features it does not read data
//! sets or use the network.
//!
//! ```
//! use diffusion::Model;
//! use diffusion::sample::SamplerKind;
//!
//! // A small model of handwritten digits. The folder of a `diffusion train` run works, too.
//! let path = std::env::temp_dir().join("diffusion-example-digits.safetensors");
//! std::fs::write(&path, diffusion_assets::DIGITS_MODEL)?;
//!
//! let model = Model::open(&path)?;
//! let images = model.images(4).class("7").sampler(SamplerKind::Ddim).steps(5).seed(1).tensor()?;
//! assert_eq!(images.dims(), [4, 1, 28, 28]);
//! # std::fs::remove_file(&path)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod simple;

pub use candle_core::{Device, Tensor};
#[cfg(feature = "data")]
pub use diffusion_data as data;
#[cfg(feature = "eval")]
pub use diffusion_eval as eval;
pub use diffusion_files as files;
#[cfg(feature = "hub")]
pub use diffusion_hub as hub;
#[cfg(feature = "interop")]
pub use diffusion_interop as interop;
pub use diffusion_model as model;
pub use diffusion_nn as nn;
pub use diffusion_picture as picture;
pub use diffusion_process as process;
pub use diffusion_random as random;
#[cfg(feature = "report")]
pub use diffusion_report as report;
pub use diffusion_sample as sample;
pub use diffusion_schedule as schedule;
#[cfg(feature = "train")]
pub use diffusion_train as train;
pub use diffusion_unet as unet;

pub use simple::{Error, Images, Model};
