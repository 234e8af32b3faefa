//! Heun's method in σ: second order with two predictions per step (Karras et al. 2022, algorithms 1
//! and 2).

use candle_core::{Result, Tensor};
use diffusion_process::Denoiser;

use crate::arithmetic::{MAX_GAIN, combination};
use crate::{Churn, Sampler, Step};

/// Heun's method: an Euler step to x', then x̂ + (σ' − σ̂)·(ε̂ + ε̂')/2 with ε̂' predicted at x',
/// for a signal of 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heun {
    /// Noise added before each step. Default: none.
    pub churn: Churn,
}

impl Sampler for Heun {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let to = step.to;
        let (x, level) = self.churn.apply(step, x)?;
        let first = denoiser.denoise(&x, level)?;
        let euler = combination(&[(to.signal, &first.x0), (to.noise, &first.noise)])?;
        // A clean image has no second ε̂. At (almost) pure noise, σ̂ is (almost) infinite.
        if to.is_clean() || to.signal > MAX_GAIN * level.signal {
            return Ok(euler);
        }
        let second = denoiser.denoise(&euler, to)?;
        let half = to.signal * (to.sigma() - level.sigma()) / 2.0;
        combination(&[(to.signal / level.signal, &x), (half, &first.noise), (half, &second.noise)])
    }
}
