//! Noise schedules of diffusion models as f64 tables.
//!
//! A schedule says how much of an image is left after t steps of the forward process
//! q(x_t | x_0) = N(√ᾱ_t · x_0, (1 − ᾱ_t) · I) (Ho et al. 2020, eq. 4). [`ScheduleConfig`] is the data,
//! [`NoiseSchedule`] the tables, and [`NoiseSchedule::respace`] gives a shorter schedule that looks like any other.
//! [`SamplingPlan`] is what a sampler sees of it: steps from one [`NoiseLevel`] to the next.
//!
//! This crate knows no tensors, no images and no files; it does not round to f32.
//!
//! ```
//! use diffusion_schedule::{ScheduleConfig, TimestepSpacing};
//!
//! let schedule = ScheduleConfig::default().build()?;
//! assert_eq!(schedule.len(), 1000);
//! assert!((schedule.alphas_cumprod()[100] - 0.895_142).abs() < 1e-6);
//! assert_eq!(schedule.first_below_0_db(), Some(259));
//!
//! let fifty = schedule.respace(50, TimestepSpacing::Leading)?;
//! assert_eq!((fifty.len(), fifty.timestep(49)), (50, 980));
//! # Ok::<(), diffusion_schedule::ScheduleError>(())
//! ```

mod betas;
mod comparison;
mod error;
mod level;
mod names;
mod plan;
mod posterior;
mod schedule;
mod spacing;

pub use betas::{BetaSchedule, ScheduleConfig};
pub use comparison::{Crossing, Sample, ScheduleComparison};
pub use error::ScheduleError;
pub use level::{NoiseLevel, edm_noise_conditioning};
pub use plan::{PlanStep, SamplingPlan};
pub use posterior::{Posterior, VarianceType};
pub use schedule::NoiseSchedule;
pub use spacing::{KARRAS_RHO, KARRAS_SIGMAS, SigmaSpacing, TimestepSpacing};
