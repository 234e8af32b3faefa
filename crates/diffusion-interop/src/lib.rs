//! Exchanges models and schedulers with Python's library `diffusers`.
//!
//! - [`ImportedModel::read`] reads the folder of a `UNet2DModel`, alone or in a pipeline.
//!   [`ImportedModel::read_openai`] reads a state dict of OpenAI's improved-diffusion or
//!   guided-diffusion.
//! - [`ExportedModel::write`] writes a folder that `DDPMPipeline.from_pretrained` loads.
//! - [`Scheduler`] reads a `scheduler_config.json` and takes the same steps as that scheduler in
//!   `diffusers`. [`SchedulerClass`] lists the eleven supported classes.
//! - [`SchedulerMethod`] is a scheduler as the sampling method of a
//!   [`LoadedModel`](diffusion_model::LoadedModel). An imported run keeps its scheduler.
//! - [`InteropError`] names the setting, scheduler or tensor that has no counterpart.
//!
//! A scheduler of `diffusers` is a noise schedule, a choice of noise levels and a sampler in one.
//! Here it becomes a [`SamplingPlan`](diffusion_schedule::SamplingPlan), a
//! [`Sampler`](diffusion_sample::Sampler) and a [`Denoiser`](diffusion_process::Denoiser). Where
//! `diffusers` differs from the papers, so does this crate: in the plan if possible, otherwise in
//! its own sampler or denoiser. No other crate has these differences.
//!
//! Files are not trusted: sizes are limited, and a pickle is parsed, never executed. This crate
//! does not create runs, train, or run the sampling loop.
//!
//! ```
//! use diffusion_interop::{Scheduler, Steps};
//!
//! let json = r#"{
//!     "_class_name": "DDIMScheduler",
//!     "beta_schedule": "squaredcos_cap_v2",
//!     "timestep_spacing": "trailing"
//! }"#;
//! let scheduler = Scheduler::from_json(json)?;
//! let plan = scheduler.plan(&Steps::Count(10))?;
//! assert_eq!((plan.steps().len(), plan.start().timestep), (10, 999.0));
//! # Ok::<(), diffusion_interop::InteropError>(())
//! ```

mod beta_distribution;
mod churned;
mod config;
mod error;
mod export;
mod folder;
mod import;
mod levels;
mod method;
mod model_config;
mod openai;
mod pndm;
mod scheduler;
mod signed_network;
mod single_precision;
mod weights;

pub use config::{SchedulerClass, SchedulerConfig};
pub use error::InteropError;
pub use export::ExportedModel;
pub use import::ImportedModel;
pub use method::SchedulerMethod;
pub use openai::OpenAiOptions;
pub use scheduler::{Scheduler, StepArguments, Steps};
