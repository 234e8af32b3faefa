//! What happens to an image on its way to noise and back.
//!
//! - [`NoiseSource`]: seeded Gaussian noise in which the noise of image i depends on (seed, i) only.
//! - [`Levels`] and [`Levels::add_noise`]: x_t = √ᾱ_t·x₀ + √(1 − ᾱ_t)·ε, with a timestep per image.
//! - [`Parametrisation`]: what a network's output means (ε, x₀, v, a flow or EDM), and every conversion between them;
//!   [`PredictionType`] is how files name it.
//! - [`Thresholded`]: a denoiser whose x̂₀ is kept in range.
//! - [`Denoiser`] and [`Network`]: what samplers and trainers see of a model; [`ConditionalDenoiser`] can be told classes,
//!   and a [`Classifier`] tells them.
//!
//! This crate holds no network, no sampling loop and no files; it never uses the device's random generator.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use diffusion_process::{Domain, Levels, NoiseSource, Parametrisation};
//! use diffusion_schedule::ScheduleConfig;
//!
//! let schedule = ScheduleConfig::default().build()?;
//! let x0 = Tensor::zeros((2, 1, 28, 28), DType::F32, &Device::Cpu)?;
//! let noise = NoiseSource::new(7).normal(Domain::Initial, 0, 0..2, &[1, 28, 28], &Device::Cpu)?;
//! let levels = Levels::at(&schedule, &[10, 990], &x0)?;
//! let x_t = levels.add_noise(&x0, &noise)?;
//! let prediction = Parametrisation::Epsilon.to_prediction(&noise, &x_t, &levels)?;
//! assert!(prediction.x0.abs()?.max_all()?.to_scalar::<f32>()? < 1e-2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bound;
mod classifier;
mod denoiser;
mod level;
mod parametrisation;
mod threshold;

pub use bound::{
    bits_per_dimension, discretized_log_likelihood, discretized_log_probability, gaussian_kl,
};
pub use classifier::{Classifier, class_gradient, log_likelihood};
pub use denoiser::{
    ConditionalDenoiser, Conditioned, Denoiser, Network, NetworkDenoiser, refuse_classes,
};
pub use diffusion_random::{Domain, NoiseSource};
pub use diffusion_schedule::NoiseLevel;
pub use level::{Levels, per_image};
pub use parametrisation::{Parametrisation, Preconditioning, Prediction, PredictionType};
pub use threshold::{Threshold, Thresholded};
