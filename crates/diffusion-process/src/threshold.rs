//! Thresholding: keeps x̂₀ in the range of the data.

use candle_core::{DType, Device, Result, Tensor, bail};
use diffusion_schedule::NoiseLevel;

use crate::{Denoiser, Prediction, per_image};

/// How x̂₀ is limited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Clip to ±`range` (Ho et al. 2020).
    Clip {
        /// The limit, above 0. The range of the data is 1.
        range: f64,
    },
    /// Clip to ±s and divide by s, where s is a quantile of |x̂₀| of each image, at least 1
    /// (Saharia et al. 2022, section 2.3).
    Dynamic {
        /// The quantile, in [0, 1].
        ratio: f64,
        /// The largest s, at least 1.
        max: f64,
    },
}

/// A denoiser whose x̂₀ is limited to the range of the data.
#[derive(Clone, Copy)]
pub struct Thresholded<'a> {
    denoiser: &'a dyn Denoiser,
    threshold: Threshold,
    keep_noise: bool,
}

impl<'a> Thresholded<'a> {
    /// `denoiser`, with `threshold` applied to its x̂₀. ε̂ is computed again from x_t and the new
    /// x̂₀.
    pub fn new(denoiser: &'a dyn Denoiser, threshold: Threshold) -> Self {
        Self { denoiser, threshold, keep_noise: false }
    }

    /// Keeps the ε̂ of the denoiser, although it does not match the new x̂₀.
    #[must_use]
    pub fn keeping_noise(self) -> Self {
        Self { keep_noise: true, ..self }
    }
}

impl Threshold {
    /// Limits `x0` (N, C, H, W).
    ///
    /// # Errors
    /// - If `ratio` is outside [0, 1], or `max` is NaN or below 1.
    /// - An error of the device.
    pub fn apply(self, x0: &Tensor) -> Result<Tensor> {
        match self {
            Self::Clip { range } => x0.clamp(-range, range),
            Self::Dynamic { ratio, max } => {
                if !(0.0..=1.0).contains(&ratio) || max.is_nan() || max < 1.0 {
                    bail!(
                        "dynamic thresholding needs a ratio in [0, 1] and a maximum of at least 1, \
                         got {ratio} and {max}"
                    );
                }
                let rows = x0
                    .abs()?
                    .flatten_from(1)?
                    .to_device(&Device::Cpu)?
                    .to_dtype(DType::F64)?
                    .to_vec2::<f64>()?;
                let limits = rows.into_iter().map(|row| quantile(row, ratio).clamp(1.0, max));
                let limits = per_image(limits, x0)?;
                x0.broadcast_minimum(&limits)?
                    .broadcast_maximum(&limits.neg()?)?
                    .broadcast_div(&limits)
            }
        }
    }
}

/// The quantile `ratio` of `numbers`, interpolated linearly between the two nearest ones.
fn quantile(mut numbers: Vec<f64>, ratio: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let position = ratio * (numbers.len() - 1) as f64;
    let (low, high) = (numbers[position.floor() as usize], numbers[position.ceil() as usize]);
    low + (high - low) * position.fract()
}

impl Denoiser for Thresholded<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let prediction = self.denoiser.denoise(x_t, level)?;
        let x0 = self.threshold.apply(&prediction.x0)?;
        if self.keep_noise {
            Ok(Prediction { x0, ..prediction })
        } else {
            prediction.with_x0(x0, x_t, level)
        }
    }
}
