//! A trained diffusion model: what it is, how it is loaded, and how images come out of it.
//!
//! - [`LoadedModel`]: a network with its weights, its [`ModelDescription`] and its [`Objective`], from the folder of a run, of a
//!   checkpoint, or a packed file. [`RunLayout`] knows where things are in the folder of a run.
//! - [`LoadedModel::generate`]: images in one call, as [`Generation`] says.
//! - [`Generator`]: the loop over batches behind it, for those who need each batch, a plan or an operation of their own. One
//!   observer sees every step and may stop it.
//! - [`GuidanceConfig`]: what steers the images, as data; [`ModelClass`] and [`ClassChoice`]: which classes.
//!
//! This crate trains nothing. It needs no data set and no image codec, and it does not print.
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::path::Path;
//!
//! use candle_core::Device;
//! use diffusion_model::{Generation, LoadedModel, Weights};
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/digits.safetensors");
//! let model = LoadedModel::open(Path::new(path), Weights::Ema, &Device::Cpu)?;
//! let generation = Generation { steps: Some(4), seed: 7, ..Generation::new(2) };
//! let images = model.generate(&generation, &mut |_| ControlFlow::Continue(()))?;
//! assert_eq!(images.dims(), [2, 1, 28, 28]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod classes;
mod classifier;
mod description;
mod error;
mod generation;
mod generator;
mod guidance;
mod layout;
mod loaded;
mod objective;

pub use classes::{ClassChoice, ClassError, ModelClass, find_class};
pub use classifier::{ClassifierDescription, LoadedClassifier};
pub use description::{DATA_RANGE, ModelDescription};
pub use error::ModelError;
pub use generation::Generation;
pub use generator::{
    Batch, Batches, GeneratedBatch, GenerationProgress, Generator, ImageSpec, Observer, Operation,
    SamplingConfig,
};
pub use guidance::{GuidanceConfig, GuidanceError, GuidanceMethod, Reference};
pub use layout::RunLayout;
pub use loaded::{FORMAT_VERSION, LoadedModel, ModelState, Weights};
pub use objective::{EdmConfig, NoisyBatch, Objective, SamplerError};
