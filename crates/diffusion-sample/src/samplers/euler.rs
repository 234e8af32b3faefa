//! Euler's method in σ (Karras et al. 2022, algorithm 2 without its correction). Without churn it
//! is the same as DDIM.

use candle_core::{Result, Tensor};
use diffusion_process::Denoiser;

use crate::arithmetic::combination;
use crate::{Churn, Sampler, Step};

/// Euler's method: x' = x̂ + (σ' − σ̂)·ε̂ for a signal of 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Euler {
    /// Noise added before each step. Default: none.
    pub churn: Churn,
}

impl Sampler for Euler {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let (x, level) = self.churn.apply(step, x)?;
        let prediction = denoiser.denoise(&x, level)?;
        combination(&[(step.to.signal, &prediction.x0), (step.to.noise, &prediction.noise)])
    }
}
