//! Denoising diffusion implicit models (Song et al. 2021), and their inversion.

use std::ops::ControlFlow;

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, NoiseLevel};
use diffusion_schedule::SamplingPlan;

use crate::arithmetic::{combination, transfer};
use crate::{Sampler, Step};

/// x' = signal'·x̂₀ + √(noise'² − σ²)·ε̂ + σ·z (eq. 12).
#[derive(Clone, Copy, Debug, Default)]
pub struct Ddim {
    /// η: how much of an ancestral step's noise is added; 0 for none, 1 for DDPM's.
    pub eta: f64,
}

impl Sampler for Ddim {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let Step { from, to, .. } = *step;
        let prediction = denoiser.denoise(x, from)?;
        // Eq. 16.
        let kept = from.alpha_cumprod() / to.alpha_cumprod();
        let sigma = if step.noisy { self.eta * to.noise / from.noise * (1.0 - kept).sqrt() } else { 0.0 };
        let direction = (to.noise * to.noise - sigma * sigma).max(0.0).sqrt();
        let mean = combination(&[(to.signal, &prediction.x0), (direction, &prediction.noise)])?;
        if sigma == 0.0 { Ok(mean) } else { mean + step.noise()?.affine(sigma, 0.0)? }
    }
}

/// The noise from which [`Ddim`] with η = 0 makes `images` (N, C, H, W) along `plan`: its steps backwards.
///
/// A step forward depends on what the model says at the point that a step backward is looking for. The point is found by
/// fixed-point iteration, `iterations` times, from the image brought to the noisier level's scale; with 1, the model is
/// asked there, about as good as the usual approximation, which asks at the cleaner level (Dhariwal & Nichol 2021, appendix
/// F). Where there is more noise than signal x̂₀ is held from one iteration to the next, elsewhere ε̂: each is the one that
/// depends less on x there, and x̂₀ leads to levels without any signal, too.
///
/// `progress` is told how many steps are done; if it breaks off, there is no noise.
///
/// # Errors
/// Those of the denoiser and the device.
pub fn invert(
    denoiser: &dyn Denoiser,
    images: &Tensor,
    plan: &SamplingPlan,
    iterations: usize,
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Tensor>> {
    let mut x = images.clone();
    for (done, step) in plan.steps().iter().rev().enumerate() {
        let mut noisier = rescaled(&x, &step.to, &step.from)?;
        // Of data of variance v, x̂₀ converges faster where the product of both σ is above v, and ε̂ below.
        let hold_x0 = step.from.sigma() * step.to.sigma() > 1.0;
        for _ in 0..iterations {
            let said = denoiser.denoise(&noisier, step.from)?;
            noisier = if hold_x0 {
                let ratio = step.from.noise / step.to.noise;
                combination(&[(ratio, &x), (step.from.signal - step.to.signal * ratio, &said.x0)])?
            } else {
                transfer(&x, &said.noise, &step.to, &step.from)?
            };
        }
        x = noisier;
        if progress(done + 1).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(x))
}

/// The image of `from` as if it were at `to`: nearly the same image, if the levels are near each other.
fn rescaled(x: &Tensor, from: &NoiseLevel, to: &NoiseLevel) -> Result<Tensor> {
    x.affine(from.to_variance_preserving() / to.to_variance_preserving(), 0.0)
}
