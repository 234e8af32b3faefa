//! Diffusion models: the parts under one name, and the short way from a trained model to images.
//!
//! ```
//! use diffusion::Model;
//! use diffusion::sample::SamplerKind;
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/digits.safetensors");
//! let model = Model::open(path)?;
//! let images = model.images(4).class("7").sampler(SamplerKind::Ddim).steps(5).seed(1).tensor()?;
//! assert_eq!(images.dims(), [4, 1, 28, 28]);
//! # Ok::<(), diffusion::Error>(())
//! ```
//!
//! [`Model`] and [`Images`] are all there is here beside the parts. Each part is a crate of its own, which can be used
//! alone; the modules are re-exports. From the bottom: [`random`], [`files`], [`schedule`], [`process`], [`nn`], [`unet`],
//! [`sample`], [`picture`], [`model`], and by features of the same names `data`, `hub`, `eval`, `interop`, `train` and
//! `report`.
//!
//! This crate adds no mathematics, and with default features it brings no data formats and no network access.

mod short;

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

pub use short::{Error, Images, Model};
