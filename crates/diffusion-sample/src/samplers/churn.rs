//! Noise that is added before a step (Karras et al. 2022, algorithm 2, lines 4 to 6).

use candle_core::{Result, Tensor};
use diffusion_process::NoiseLevel;

use crate::Step;

/// The amount of noise, and the range of σ in which it is added. Default: none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// S_churn: the amount for all steps together. Default: 0.
    pub amount: f64,
    /// S_tmin: the smallest σ at which noise is added. Default: 0.
    pub min: f64,
    /// S_tmax: the largest σ at which noise is added. Default: infinity.
    pub max: f64,
    /// S_noise: the standard deviation of the noise. Values slightly above 1 make up for lost
    /// detail. Default: 1.
    pub deviation: f64,
}

impl Default for Churn {
    fn default() -> Self {
        Self { amount: 0.0, min: 0.0, max: f64::INFINITY, deviation: 1.0 }
    }
}

impl Churn {
    /// γ of a step from `sigma`, in a plan of `count` steps.
    fn gamma(&self, sigma: f64, count: usize) -> f64 {
        if (self.min..=self.max).contains(&sigma) && sigma.is_finite() {
            (self.amount / count as f64).min(std::f64::consts::SQRT_2 - 1.0)
        } else {
            0.0
        }
    }

    /// Adds the step's share of the noise to x. Returns x̂ and its level.
    ///
    /// # Errors
    /// An error of the device.
    pub fn apply(&self, step: &Step<'_>, x: &Tensor) -> Result<(Tensor, NoiseLevel)> {
        let sigma = step.from.sigma();
        let gamma = self.gamma(sigma, step.count());
        if gamma == 0.0 {
            return Ok((x.clone(), step.from));
        }
        let raised = sigma * (1.0 + gamma);
        let signal = step.from.signal;
        let deviation = signal * (raised * raised - sigma * sigma).sqrt() * self.deviation;
        let level =
            NoiseLevel { timestep: step.plan.timestep_at(raised), signal, noise: signal * raised };
        Ok(((x + step.noise()?.affine(deviation, 0.0)?)?, level))
    }
}
