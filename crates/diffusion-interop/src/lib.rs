//! The exchange with Python's `diffusers`: its schedulers, with their habits, and its model folders in both directions.
//!
//! [`ImportedModel::read`] takes a pipeline's folder or a model's; [`ExportedModel::write`] makes one that
//! `DDPMPipeline.from_pretrained` loads. Files are read with distrust, and a pickle is parsed, never executed. This crate
//! makes no runs, trains nothing and samples nothing.
//!
//! A scheduler there is a schedule, a choice of noise levels and a sampler in one. Here it becomes a
//! [`SamplingPlan`](diffusion_schedule::SamplingPlan), a [`Sampler`](diffusion_sample::Sampler) and a
//! [`Denoiser`](diffusion_process::Denoiser). Where the library does not do what the papers say, this crate does as the
//! library does, and no other crate knows: in the plan wherever that is possible, else in a sampler of its own.
//!
//! ```
//! use diffusion_interop::{Scheduler, Steps};
//!
//! let json = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}"#;
//! let scheduler = Scheduler::from_json(json)?;
//! let plan = scheduler.plan(&Steps::Count(10))?;
//! assert_eq!((plan.steps().len(), plan.start().timestep), (10, 999.0));
//! # Ok::<(), diffusion_interop::InteropError>(())
//! ```

mod beta_distribution;
mod churned;
mod config;
mod denoisers;
mod error;
mod export;
mod folder;
mod import;
mod levels;
mod model_config;
mod openai;
mod scheduler;
mod weights;

pub use config::{SchedulerClass, SchedulerConfig};
pub use error::InteropError;
pub use export::ExportedModel;
pub use import::ImportedModel;
pub use openai::OpenAiOptions;
pub use scheduler::{Scheduler, StepArguments, Steps};
