//! Heun's method in σ: second order with two looks a step (Karras et al. 2022, algorithms 1 and 2).

use candle_core::{Result, Tensor};
use diffusion_process::Denoiser;

use crate::arithmetic::{MOST_GAIN, combination};
use crate::{Churn, Sampler, Step};

/// An Euler step to x', then x̂ + (σ' − σ̂)·(ε̂ + ε̂')/2 with ε̂' from there, where the signal is 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heun {
    /// Noise added before each step.
    pub churn: Churn,
}

impl Sampler for Heun {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let to = step.to;
        let (x, level) = self.churn.apply(step, x)?;
        let first = denoiser.denoise(&x, level)?;
        let euler = combination(&[(to.signal, &first.x0), (to.noise, &first.noise)])?;
        // At the image itself there is no second ε̂; from noise alone, or nearly, there is no σ̂ to go by.
        if to.is_clean() || to.signal > MOST_GAIN * level.signal {
            return Ok(euler);
        }
        let second = denoiser.denoise(&euler, to)?;
        let half = to.signal * (to.sigma() - level.sigma()) / 2.0;
        combination(&[(to.signal / level.signal, &x), (half, &first.noise), (half, &second.noise)])
    }
}
