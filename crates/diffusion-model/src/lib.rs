//! Loading trained diffusion models and generating images with them.
//!
//! - [`LoadedModel`]: a network with its weights, loaded from the folder of a run or a checkpoint,
//!   or from a packed file. [`ModelDescription`] and [`Objective`] describe it. [`RunLayout`] has
//!   the paths in the folder of a run.
//! - [`LoadedModel::generate`]: images in one call, with the settings in [`Generation`].
//! - [`Generator`]: the loop over batches, for access to each batch, custom plans and custom
//!   operations. An observer sees every step and can stop the generation.
//! - [`SamplingMethod`]: a sampler from elsewhere that makes its own plan.
//! - [`GuidanceConfig`]: guidance as data. [`ModelClass`] and [`ClassChoice`]: the classes of a
//!   model and of its images.
//!
//! This crate does not train, does not read data sets or image files, and does not print.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use candle_core::Device;
//! use diffusion_assets::DIGITS_MODEL;
//! use diffusion_model::{Generation, LoadedModel};
//!
//! // A small model of handwritten digits; `LoadedModel::open` loads the folder of a run.
//! let model = LoadedModel::unpack(DIGITS_MODEL, "digits".as_ref(), &Device::Cpu)?;
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
mod method;
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
pub use method::SamplingMethod;
pub use objective::{EdmConfig, NoisyBatch, Objective, SamplerError};
