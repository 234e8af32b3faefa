//! Euler's method in σ with ancestral noise: each step goes below the next level and adds new noise
//! to reach it.

use candle_core::{Result, Tensor};
use diffusion_process::Denoiser;

use crate::arithmetic::combination;
use crate::{Sampler, Step};

/// Euler's method with ancestral noise: x' = x + (σ_down − σ)·ε̂ + σ_up·z with σ_down² + σ_up² =
/// σ'², for a signal of 1. The noise is DDPM's with the posterior's variance.
#[derive(Clone, Copy, Debug, Default)]
pub struct EulerAncestral;

impl Sampler for EulerAncestral {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let Step { from, to, .. } = *step;
        let prediction = denoiser.denoise(x, from)?;
        let ratio = to.sigma() / from.sigma();
        let up = if step.noisy { to.noise * (1.0 - ratio * ratio).max(0.0).sqrt() } else { 0.0 };
        let down = (to.noise * to.noise - up * up).max(0.0).sqrt();
        let mean = combination(&[(to.signal, &prediction.x0), (down, &prediction.noise)])?;
        if up == 0.0 { Ok(mean) } else { mean + step.noise()?.affine(up, 0.0)? }
    }
}
