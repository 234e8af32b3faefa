//! Sampling, guidance and editing for diffusion models: from noise to images, with any
//! [`Denoiser`](diffusion_process::Denoiser).
//!
//! - [`sample`] runs the loop over the steps of a
//!   [`SamplingPlan`](diffusion_schedule::SamplingPlan), reports progress and can be cancelled.
//! - [`Sampler`] is one step of a method. Implementations, one file each: [`Ddpm`], [`Ddim`],
//!   [`DpmSolver`], [`Euler`], [`EulerAncestral`], [`Heun`], [`UniPc`], [`Lms`], [`Pndm`],
//!   [`FlowEuler`] and [`FlowHeun`]. The last two work on the straight path of flow matching, all
//!   others on any path.
//! - [`SamplerKind`] chooses a sampler by name.
//! - [`ClassifierFree`], [`Autoguided`], [`ClassifierGuided`], [`ReferenceGuided`] and
//!   [`FunctionGuided`] guide a denoiser. They can be nested and work with every sampler.
//! - [`edit`] changes existing pictures: variations, inpainting, interpolation, change of class.
//!
//! This crate does not know networks or schedules and does not read files. Its only random numbers
//! come from a [`NoiseSource`](diffusion_process::NoiseSource): image i depends on the seed and on
//! i, not on its batch.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use candle_core::{Device, Tensor};
//! use diffusion_process::{Levels, NoiseLevel, Parametrisation};
//! use diffusion_sample::{Ddpm, SampleRequest, sample};
//! use diffusion_schedule::{SamplingPlan, ScheduleConfig, SigmaSpacing, TimestepSpacing};
//!
//! let schedule = ScheduleConfig::default().build()?;
//! let (spacing, sigmas) = (TimestepSpacing::Trailing, SigmaSpacing::Timesteps);
//! let plan = SamplingPlan::new(&schedule, 10, spacing, sigmas)?;
//! // A model that predicts x₀ = 0 for every image.
//! let denoiser = |x_t: &Tensor, level: NoiseLevel| {
//!     let levels = Levels::new(&[level; 2], x_t)?;
//!     Parametrisation::Sample.to_prediction(&x_t.zeros_like()?, x_t, &levels)
//! };
//! let (indices, device) = (vec![0, 1], &Device::Cpu);
//! let request = SampleRequest { seed: 1, indices, image_shape: [1, 8, 8], device };
//! let images = sample(&denoiser, &mut Ddpm::default(), &plan, &request, &mut |_| {
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(images.dims(), [2, 1, 8, 8]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arithmetic;
mod driver;
pub mod edit;
mod guidance;
mod kind;
mod samplers;

pub use diffusion_schedule::VarianceType;
pub use driver::{
    Progress, SampleError, SampleRequest, Sampler, Step, StepNoise, sample, sample_from,
};
pub use guidance::{
    Autoguided, ClassifierFree, ClassifierGuided, FunctionGuided, Guidance, ReferenceGuided,
};
pub use kind::{SamplerKind, SamplerOptions};
pub use samplers::{
    Churn, Ddim, Ddpm, DpmSolver, Euler, EulerAncestral, FlowEuler, FlowHeun, Heun, Lms, Pndm,
    SolverType, UniPc, Weighting,
};
