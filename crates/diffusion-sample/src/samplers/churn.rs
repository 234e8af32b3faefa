//! Noise that is added between steps, to be taken away again (Karras et al. 2022, algorithm 2, lines 4 to 6).

use candle_core::{Result, Tensor};
use diffusion_process::NoiseLevel;

use crate::Step;

/// How much noise, and where. The default is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// S_churn: the amount, for all steps together.
    pub amount: f64,
    /// S_tmin: the smallest σ at which it is added.
    pub min: f64,
    /// S_tmax: the largest.
    pub max: f64,
    /// S_noise: the standard deviation of the noise, slightly above 1 to make up for lost detail.
    pub deviation: f64,
}

impl Default for Churn {
    fn default() -> Self {
        Self { amount: 0.0, min: 0.0, max: f64::INFINITY, deviation: 1.0 }
    }
}

impl Churn {
    /// γ of a step from `sigma`, of `count`.
    fn gamma(&self, sigma: f64, count: usize) -> f64 {
        if (self.min..=self.max).contains(&sigma) && sigma.is_finite() {
            (self.amount / count as f64).min(std::f64::consts::SQRT_2 - 1.0)
        } else {
            0.0
        }
    }

    /// x̂ and its level: x with the step's share of the noise.
    ///
    /// # Errors
    /// Those of the device.
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
