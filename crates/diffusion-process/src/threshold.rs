//! Keeping x̂₀ within the range of the data.

use candle_core::{DType, Device, Result, Tensor, bail};
use diffusion_schedule::NoiseLevel;

use crate::{Denoiser, Prediction, per_image};

/// What is done to x̂₀.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Cut to ±`range` (Ho et al. 2020).
    Clip {
        /// Above 0; the data's is 1.
        range: f64,
    },
    /// Cut to ±s and divided by s, where s is a quantile of an image's |x̂₀|, at least 1 (Saharia et al. 2022, section 2.3).
    Dynamic {
        /// Which quantile, in [0, 1].
        ratio: f64,
        /// The largest s.
        max: f64,
    },
}

/// A denoiser whose x̂₀ is kept in range.
#[derive(Clone, Copy)]
pub struct Thresholded<'a> {
    denoiser: &'a dyn Denoiser,
    threshold: Threshold,
    keep_noise: bool,
}

impl<'a> Thresholded<'a> {
    /// `denoiser`, with `threshold` applied to what it says. The noise is then what is left of x_t.
    pub fn new(denoiser: &'a dyn Denoiser, threshold: Threshold) -> Self {
        Self { denoiser, threshold, keep_noise: false }
    }

    /// Leaves ε̂ as the denoiser said it, though it does not belong to the new x̂₀.
    #[must_use]
    pub fn keeping_noise(self) -> Self {
        Self { keep_noise: true, ..self }
    }
}

impl Threshold {
    /// `x0` (N, C, H, W), in range.
    ///
    /// # Errors
    /// A quantile outside [0, 1]; those of the device.
    pub fn apply(self, x0: &Tensor) -> Result<Tensor> {
        match self {
            Self::Clip { range } => x0.clamp(-range, range),
            Self::Dynamic { ratio, max } => {
                if !(0.0..=1.0).contains(&ratio) || max.is_nan() || max < 1.0 {
                    bail!(
                        "dynamic thresholding wants a ratio in [0, 1] and a maximum of 1 at least, got {ratio} and {max}"
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

/// The quantile, interpolated between the two nearest numbers.
fn quantile(mut numbers: Vec<f64>, ratio: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let place = ratio * (numbers.len() - 1) as f64;
    let (low, high) = (numbers[place.floor() as usize], numbers[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

impl Denoiser for Thresholded<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let said = self.denoiser.denoise(x_t, level)?;
        let x0 = self.threshold.apply(&said.x0)?;
        if self.keep_noise { Ok(Prediction { x0, ..said }) } else { said.with_x0(x0, x_t, level) }
    }
}
