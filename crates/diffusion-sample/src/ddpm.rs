//! Ancestral sampling (Ho et al. 2020, algorithm 2).

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, posterior_mean};
use diffusion_schedule::NoiseSchedule;
use serde::{Deserialize, Serialize};

use crate::{Sampler, Step};

/// The variance of a reverse step. Both are valid choices (Ho et al. 2020, section 3.2); they meet as the number of
/// steps grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceType {
    /// β̃, the variance of the posterior: right for data at a single point, and the better choice for few steps.
    #[default]
    FixedSmall,
    /// β: right for data that is itself standard normal; the choice of the paper's algorithm.
    FixedLarge,
}

impl VarianceType {
    fn variance(self, schedule: &NoiseSchedule, i: usize) -> f64 {
        match self {
            Self::FixedSmall => schedule.posterior_variance(i),
            Self::FixedLarge => schedule.betas()[i],
        }
    }
}

/// x_{t−1} ~ N(μ̃(x_t, x̂₀), σ²·I), with no noise in the last step.
#[derive(Clone, Copy, Debug)]
pub struct Ddpm {
    /// σ².
    pub variance: VarianceType,
    /// Cut x̂₀ to \[−1, 1\], the range of the data, at each step.
    pub clip_denoised: bool,
}

impl Default for Ddpm {
    fn default() -> Self {
        Self { variance: VarianceType::default(), clip_denoised: true }
    }
}

impl Sampler for Ddpm {
    fn step(&self, step: &Step<'_>, x_t: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let mut x0 = denoiser.denoise(x_t, step.level())?.x0;
        if self.clip_denoised {
            x0 = x0.clamp(-1f32, 1f32)?;
        }
        // With x̂₀ from ε̂ this mean is algorithm 2's (x_t − β/√(1−ᾱ)·ε̂)/√α.
        let mean = posterior_mean(step.schedule, step.index, &x0, x_t)?;
        if step.index == 0 {
            return Ok(mean);
        }
        let sigma = self.variance.variance(step.schedule, step.index).sqrt();
        mean + step.noise()?.affine(sigma, 0.0)?
    }
}
