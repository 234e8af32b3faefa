//! Samplers: from noise to images with any [`Denoiser`].
//!
//! [`sample`] is the driver; it owns the loop, progress and cancelling. A [`Sampler`] is what differs: one step of a
//! [`SamplingPlan`](diffusion_schedule::SamplingPlan), and what is remembered from step to step. The samplers, one file
//! each: [`Ddpm`], [`Ddim`], [`DpmSolver`], [`Euler`], [`EulerAncestral`], [`Heun`], [`UniPc`], [`Lms`], [`Pndm`],
//! [`FlowEuler`] and [`FlowHeun`]; [`SamplerKind`] names them all. They take levels of any scale but for the last two.
//!
//! Pictures that exist are changed by [`edit`]: varied, filled in, led from one to another, or drawn as another class.
//!
//! This crate names no network, reads no files and draws no random numbers but those of a
//! [`NoiseSource`](diffusion_process::NoiseSource): image i depends on (seed, i) only, not on its batch.
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
//! let plan = SamplingPlan::new(&schedule, 10, TimestepSpacing::Trailing, SigmaSpacing::Timesteps)?;
//! // A model that takes everything for noise: the images it gives are black.
//! let denoiser = |x_t: &Tensor, level: NoiseLevel| {
//!     let levels = Levels::new(&[level; 2], x_t)?;
//!     Parametrisation::Sample.to_prediction(&x_t.zeros_like()?, x_t, &levels)
//! };
//! let request = SampleRequest { seed: 1, indices: vec![0, 1], image_shape: [1, 8, 8], device: &Device::Cpu };
//! let images = sample(&denoiser, &mut Ddpm::default(), &plan, &request, &mut |_| ControlFlow::Continue(()))?;
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
    AfterReference, Autoguided, ClassifierFree, ClassifierGuided, Guidance, Steered,
};
pub use kind::{SamplerKind, SamplerOptions};
pub use samplers::{
    Churn, Ddim, Ddpm, DpmSolver, Euler, EulerAncestral, FlowEuler, FlowHeun, Heun, Lms, Pndm,
    SolverType, UniPc, Weighting,
};

#[cfg(doc)]
use diffusion_process::Denoiser;
