//! Denoising diffusion implicit models (Song et al. 2021).

use candle_core::{Result, Tensor};
use diffusion_process::Denoiser;

use crate::arithmetic::combination;
use crate::{Sampler, Step};

/// DDIM: x' = signal'·x̂₀ + √(noise'² − σ²)·ε̂ + σ·z (eq. 12).
#[derive(Clone, Copy, Debug, Default)]
pub struct Ddim {
    /// η: how much noise a step adds, relative to DDPM. 0 = none, 1 = DDPM's noise. Default: 0.
    pub eta: f64,
}

impl Sampler for Ddim {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let Step { from, to, .. } = *step;
        let prediction = denoiser.denoise(x, from)?;
        // Eq. 16.
        let alpha = from.alpha_cumprod() / to.alpha_cumprod();
        let sigma =
            if step.noisy { self.eta * to.noise / from.noise * (1.0 - alpha).sqrt() } else { 0.0 };
        let direction = (to.noise * to.noise - sigma * sigma).max(0.0).sqrt();
        let mean = combination(&[(to.signal, &prediction.x0), (direction, &prediction.noise)])?;
        if sigma == 0.0 { Ok(mean) } else { mean + step.noise()?.affine(sigma, 0.0)? }
    }
}
