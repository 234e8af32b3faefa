//! Noise schedules and sampling plans of diffusion models, computed in f64.
//!
//! A noise schedule says how much of an image remains after t steps of the forward process
//! q(x_t | x_0) = N(√ᾱ_t · x_0, (1 − ᾱ_t) · I) (Ho et al. 2020, eq. 4).
//!
//! - [`ScheduleConfig`]: the settings of a schedule, as data.
//! - [`NoiseSchedule`]: its tables of β and ᾱ. Respacing gives a shorter schedule of the same type.
//! - [`NoiseLevel`]: the factors of the image and of the noise in a noisy image.
//! - [`SamplingPlan`]: the steps of a sampler, each from one noise level to a less noisy one.
//! - [`Posterior`]: the reverse step of DDPM between two noise levels.
//! - [`ScheduleComparison`]: the signal-to-noise ratios of several schedules side by side.
//!
//! This crate has no tensors, no images and no files, and it never rounds to f32.
//!
//! ```
//! use diffusion_schedule::{ScheduleConfig, TimestepSpacing};
//!
//! let schedule = ScheduleConfig::default().build()?;
//! assert_eq!(schedule.len(), 1000);
//! assert!((schedule.alphas_cumprod()[100] - 0.895_142).abs() < 1e-6);
//! assert_eq!(schedule.first_below_0_db(), Some(259)); // more noise than signal from t = 259 on
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
pub use comparison::{Crossing, ScheduleComparison, SchedulePoint};
pub use error::ScheduleError;
pub use level::{NoiseLevel, edm_noise_conditioning};
pub use plan::{PlanStep, SamplingPlan};
pub use posterior::{Posterior, VarianceType};
pub use schedule::NoiseSchedule;
pub use spacing::{KARRAS_RHO, KARRAS_SIGMAS, SigmaSpacing, TimestepSpacing};
