//! Ancestral sampling (Ho et al. 2020, algorithm 2).

use candle_core::{Result, Tensor, bail};
use diffusion_process::Denoiser;
use diffusion_schedule::{Posterior, VarianceType};

use crate::arithmetic::combination;
use crate::{Sampler, Step};

/// A lower bound for β̃, because its logarithm is needed: in the last step β̃ is 0.
const MIN_VARIANCE: f64 = 1e-20;

/// DDPM: x_{t−1} ~ N(μ̃(x_t, x̂₀), σ²·I), without noise in the last step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ddpm {
    /// σ².
    pub variance: VarianceType,
}

impl Sampler for Ddpm {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let prediction = denoiser.denoise(x, step.from)?;
        let posterior = Posterior::between(&step.from, &step.to);
        // With x̂₀ computed from ε̂, this mean is algorithm 2's (x_t − β/√(1−ᾱ)·ε̂)/√α.
        let mean = combination(&[(posterior.coef_x0, &prediction.x0), (posterior.coef_xt, x)])?;
        if !step.noisy {
            return Ok(mean);
        }
        let smallest = posterior.variance.max(MIN_VARIANCE);
        match self.variance {
            VarianceType::FixedSmall => mean + step.noise()?.affine(smallest.sqrt(), 0.0)?,
            VarianceType::FixedLarge => mean + step.noise()?.affine(posterior.beta.sqrt(), 0.0)?,
            VarianceType::LearnedRange => {
                let Some(learned) = &prediction.variance else {
                    bail!("variance learned_range: the network has not learned a variance");
                };
                // The network's value in −1…1 interpolates between the two logarithms. The exponent
                // is ½·ln σ².
                let (low, high) = (smallest.ln() / 2.0, posterior.beta.ln() / 2.0);
                let deviation =
                    learned.affine((high - low) / 2.0, f64::midpoint(low, high))?.exp()?;
                mean + (step.noise()? * deviation)?
            }
        }
    }
}
