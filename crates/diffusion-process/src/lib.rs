//! The forward process of diffusion models, the meaning of a network's output, and the interfaces
//! of networks, denoisers and classifiers.
//!
//! - [`Levels`]: noise levels, one per image. They add noise: x_t = √ᾱ_t·x₀ + √(1 − ᾱ_t)·ε.
//! - [`Parametrisation`]: what a network predicts (ε, x₀, v, a flow or EDM), with all conversions
//!   between these. [`PredictionType`] is its name in files.
//! - [`Network`]: the interface of a network, for training.
//! - [`Denoiser`]: the interface of a model, for samplers. A [`ConditionalDenoiser`] also takes
//!   classes.
//! - [`Thresholded`]: a denoiser that keeps x̂₀ in the range of the data.
//! - [`Classifier`]: the interface of a classifier of noisy images, for guidance.
//! - [`NoiseSource`]: seeded Gaussian noise. The noise of an image depends on the seed and on the
//!   image's index only.
//!
//! This crate has no network, no sampling loop and no files. It never uses the device's random
//! generator.
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
//!
//! // A network that predicts the noise exactly recovers the image.
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
    ConditionalDenoiser, Conditioned, Denoiser, Network, NetworkDenoiser, reject_classes,
};
pub use diffusion_random::{Domain, NoiseSource};
pub use diffusion_schedule::NoiseLevel;
pub use level::{Levels, per_image};
pub use parametrisation::{Parametrisation, Preconditioning, Prediction, PredictionType};
pub use threshold::{Threshold, Thresholded};
