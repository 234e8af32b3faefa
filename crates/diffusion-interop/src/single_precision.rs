//! Noise schedules in single precision, as diffusers computes them.
//!
//! The rounding shows: 1 − ᾱ of the first timestep keeps only three or four digits, and is the
//! smallest noise level.

use diffusion_process::NoiseLevel;
use diffusion_schedule::{BetaSchedule, NoiseSchedule, ScheduleConfig, ScheduleError};

/// ᾱ of each training timestep, rounded to single precision.
#[derive(Clone, Debug)]
pub(crate) struct RoundedSchedule {
    alphas_cumprod: Vec<f64>,
}

impl RoundedSchedule {
    /// The schedule of `config`, or of `trained_betas` if they are given.
    ///
    /// # Errors
    /// If the settings do not describe a valid schedule.
    pub(crate) fn new(
        config: &ScheduleConfig,
        trained_betas: Option<&[f64]>,
    ) -> Result<Self, ScheduleError> {
        let mut alphas: Vec<f32> =
            betas(config, trained_betas)?.iter().map(|beta| 1.0 - beta).collect();
        if config.rescale_betas_zero_snr {
            alphas = rescaled(&alphas);
        }
        Ok(Self { alphas_cumprod: products(&alphas).into_iter().map(f64::from).collect() })
    }

    pub(crate) fn len(&self) -> usize {
        self.alphas_cumprod.len()
    }

    pub(crate) fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// The level of the timestep with the given index.
    pub(crate) fn level(&self, index: usize) -> NoiseLevel {
        NoiseLevel::variance_preserving(index as f64, self.alphas_cumprod[index])
    }
}

/// β of each timestep, before it is rescaled.
fn betas(
    config: &ScheduleConfig,
    trained_betas: Option<&[f64]>,
) -> Result<Vec<f32>, ScheduleError> {
    let exact = match trained_betas {
        Some(betas) => NoiseSchedule::from_betas(betas.to_vec())?,
        None => config.build()?,
    };
    let (start, end) = (config.beta_start, config.beta_end);
    let n = exact.len();
    let betas: Vec<f32> = match (trained_betas, config.beta_schedule) {
        (Some(betas), _) => betas.iter().map(|beta| *beta as f32).collect(),
        (None, BetaSchedule::Linear) => linspace(start, end, n),
        (None, BetaSchedule::ScaledLinear) => {
            linspace(start.sqrt(), end.sqrt(), n).into_iter().map(|root| root * root).collect()
        }
        (None, BetaSchedule::Sigmoid) => {
            let sigmoid = |z: f32| 1.0 / (1.0 + (-z).exp());
            let (range, start) = ((end - start) as f32, start as f32);
            linspace(-6.0, 6.0, n).into_iter().map(|z| sigmoid(z) * range + start).collect()
        }
        (None, BetaSchedule::Cosine) => {
            // Rounded once, at the end. Rescaling comes later.
            let plain = ScheduleConfig { rescale_betas_zero_snr: false, ..config.clone() };
            plain.build()?.betas().iter().map(|beta| *beta as f32).collect()
        }
    };
    Ok(betas)
}

/// torch's `linspace`: from both ends towards the middle, each value rounded once.
fn linspace(start: f64, end: f64, n: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = if n > 1 { (end - start) / (n - 1) as f32 } else { 0.0 };
    let value = |i: usize| {
        if i < n / 2 {
            step.mul_add(i as f32, start)
        } else {
            (-step).mul_add((n - 1 - i) as f32, end)
        }
    };
    if n == 1 { vec![start] } else { (0..n).map(value).collect() }
}

/// torch's `cumprod`, which multiplies in double precision and rounds each product.
fn products(alphas: &[f32]) -> Vec<f32> {
    let mut product = 1.0f64;
    alphas
        .iter()
        .map(|alpha| {
            product *= f64::from(*alpha);
            product as f32
        })
        .collect()
}

/// Zero terminal SNR (Lin et al. 2024, algorithm 1).
fn rescaled(alphas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = products(alphas).iter().map(|product| product.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let bars: Vec<f32> = roots.iter().map(|root| ((root - last) * scale).powi(2)).collect();
    let ratios = bars.windows(2).map(|pair| pair[1] / pair[0]);
    // β is stored, and α computed again from it.
    std::iter::once(bars[0]).chain(ratios).map(|alpha| 1.0 - (1.0 - alpha)).collect()
}
