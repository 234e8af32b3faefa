//! The straight path of flow matching, x = (1 − s)·x₀ + s·ε, with velocity u = ε − x₀ (Lipman et
//! al. 2023).

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, NoiseLevel};

use crate::arithmetic::combination;
use crate::{Sampler, Step};

/// Euler's method in s: x' = x + (s' − s)·û.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowEuler;

/// Heun's method in s: x' = x + (s' − s)·(û + û')/2, with û' at the end of an Euler step.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowHeun;

fn velocity(denoiser: &dyn Denoiser, x: &Tensor, level: NoiseLevel) -> Result<Tensor> {
    let prediction = denoiser.denoise(x, level)?;
    prediction.noise - prediction.x0
}

impl Sampler for FlowEuler {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let velocity = velocity(denoiser, x, step.from)?;
        combination(&[(1.0, x), (step.to.noise - step.from.noise, &velocity)])
    }
}

impl Sampler for FlowHeun {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let length = step.to.noise - step.from.noise;
        let first = velocity(denoiser, x, step.from)?;
        let euler = combination(&[(1.0, x), (length, &first)])?;
        if step.to.is_clean() {
            return Ok(euler);
        }
        let second = velocity(denoiser, &euler, step.to)?;
        combination(&[(1.0, x), (length / 2.0, &first), (length / 2.0, &second)])
    }
}
