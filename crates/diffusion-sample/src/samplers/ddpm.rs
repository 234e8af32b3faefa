//! Ancestral sampling (Ho et al. 2020, algorithm 2).

use candle_core::{Result, Tensor, bail};
use diffusion_process::Denoiser;
use diffusion_schedule::Posterior;
use serde::{Deserialize, Serialize};

use crate::arithmetic::combination;
use crate::{Sampler, Step};

/// The variance of a reverse step. The fixed ones are both valid choices (Ho et al. 2020, section 3.2); they meet as the
/// number of steps grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceType {
    /// β̃, the variance of the posterior: right for data at a single point, and the better choice for few steps.
    #[default]
    FixedSmall,
    /// β: right for data that is itself standard normal; the choice of the paper's algorithm.
    FixedLarge,
    /// Between the two, as the network says for each pixel (Nichol & Dhariwal 2021, eq. 15).
    LearnedRange,
}

/// Where β̃ is smaller, its logarithm is that of this: at the last step it is 0.
const LEAST_VARIANCE: f64 = 1e-20;

/// x_{t−1} ~ N(μ̃(x_t, x̂₀), σ²·I), with no noise in the last step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ddpm {
    /// σ².
    pub variance: VarianceType,
}

impl Sampler for Ddpm {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let prediction = denoiser.denoise(x, step.from)?;
        let posterior = Posterior::between(&step.from, &step.to);
        // With x̂₀ from ε̂ this mean is algorithm 2's (x_t − β/√(1−ᾱ)·ε̂)/√α.
        let mean = combination(&[(posterior.coef_x0, &prediction.x0), (posterior.coef_xt, x)])?;
        if !step.noisy {
            return Ok(mean);
        }
        let smallest = posterior.variance.max(LEAST_VARIANCE);
        match self.variance {
            VarianceType::FixedSmall => mean + step.noise()?.affine(smallest.sqrt(), 0.0)?,
            VarianceType::FixedLarge => mean + step.noise()?.affine(posterior.beta.sqrt(), 0.0)?,
            VarianceType::LearnedRange => {
                let Some(said) = &prediction.variance else {
                    bail!("a learned variance was asked of a network that has not learned one");
                };
                // ½·ln σ², from half of −1…1 between the two logarithms.
                let (low, high) = (smallest.ln() / 2.0, posterior.beta.ln() / 2.0);
                let deviation = said.affine((high - low) / 2.0, f64::midpoint(low, high))?.exp()?;
                mean + (step.noise()? * deviation)?
            }
        }
    }
}
