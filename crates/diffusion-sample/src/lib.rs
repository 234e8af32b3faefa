//! Samplers: from noise to images with any [`Denoiser`].
//!
//! [`sample`] is the driver; it owns the loop, progress and cancelling. A [`Sampler`] is what differs: one step from
//! x_t to x_{t−1}. The samplers, one file each: [`Ddpm`].
//!
//! This crate names no network, reads no files and draws no random numbers but those of a
//! [`NoiseSource`](diffusion_process::NoiseSource): image i depends on (seed, i) only, not on its batch.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use candle_core::{Device, Tensor};
//! use diffusion_process::{Levels, NoiseLevel, PredictionType};
//! use diffusion_sample::{Ddpm, SampleRequest, sample};
//! use diffusion_schedule::{ScheduleConfig, TimestepSpacing};
//!
//! let schedule = ScheduleConfig::default().build()?.respace(10, TimestepSpacing::Leading)?;
//! // A model that takes everything for noise: the images it gives are black.
//! let denoiser = |x_t: &Tensor, level: NoiseLevel| {
//!     let levels = Levels::new(&[level.alpha_cumprod; 2], x_t)?;
//!     PredictionType::Sample.to_prediction(&x_t.zeros_like()?, x_t, &levels)
//! };
//! let request = SampleRequest { seed: 1, indices: 0..2, image_shape: [1, 8, 8], device: &Device::Cpu };
//! let images = sample(&denoiser, &Ddpm::default(), &schedule, &request, &mut |_| ControlFlow::Continue(()))?;
//! assert_eq!(images.dims(), [2, 1, 8, 8]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ddpm;
mod driver;

pub use ddpm::{Ddpm, VarianceType};
pub use driver::{Progress, SampleError, SampleRequest, Sampler, Step, StepNoise, sample, sample_from};

#[cfg(doc)]
use diffusion_process::Denoiser;
