//! Preconditioning of a network for any noise level (Karras et al. 2022, table 1, last column).

use candle_core::{Result, Tensor};
use diffusion_schedule::NoiseLevel;
use serde::{Deserialize, Serialize};

use crate::{ConditionalDenoiser, Denoiser, Levels, Network, Prediction};

/// D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise), the factors functions of σ and of the data's standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Edm {
    /// σ_data, above 0.
    pub sigma_data: f64,
}

impl Default for Edm {
    fn default() -> Self {
        Self { sigma_data: 0.5 }
    }
}

/// The factors at one σ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EdmFactors {
    /// Of x in D.
    pub skip: f64,
    /// Of the network's output.
    pub out: f64,
    /// Of x as the network sees it.
    pub input: f64,
    /// What the network is told: ln(σ)/4.
    pub noise: f64,
}

impl Edm {
    /// The factors at `sigma`, above 0.
    pub fn factors(&self, sigma: f64) -> EdmFactors {
        let data = self.sigma_data;
        let total = sigma.hypot(data);
        EdmFactors {
            skip: data * data / (total * total),
            out: sigma * data / total,
            input: 1.0 / total,
            noise: sigma.ln() / 4.0,
        }
    }

    /// λ(σ), the weight of D's squared error that makes the network's loss 1 at the start for every σ (eq. 8):
    /// (σ² + σ_data²)/(σ·σ_data)².
    pub fn loss_weight(&self, sigma: f64) -> f64 {
        1.0 / self.factors(sigma).out.powi(2)
    }
}

/// A preconditioned network as a denoiser, for images at any scale.
#[derive(Clone, Debug)]
pub struct EdmDenoiser<N> {
    network: N,
    edm: Edm,
}

impl<N: Network> EdmDenoiser<N> {
    /// `network`, which was trained with this preconditioning.
    pub fn new(network: N, edm: Edm) -> Self {
        Self { network, edm }
    }
}

impl<N: Network> Denoiser for EdmDenoiser<N> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        self.denoise_classes(x_t, level, &vec![None; x_t.dim(0)?])
    }
}

impl<N: Network> ConditionalDenoiser for EdmDenoiser<N> {
    fn denoise_classes(
        &self,
        x_t: &Tensor,
        level: NoiseLevel,
        classes: &[Option<u32>],
    ) -> Result<Prediction> {
        let n = x_t.dim(0)?;
        let factors = self.edm.factors(level.sigma());
        let timesteps = Tensor::full(factors.noise as f32, n, x_t.device())?;
        let input = x_t.affine(factors.input / level.signal, 0.0)?;
        let output = self.network.forward_classes(&input, &timesteps, classes)?;
        let x0 = (x_t.affine(factors.skip / level.signal, 0.0)? + output.affine(factors.out, 0.0)?)?;
        Prediction::from_x0(&x0, x_t, &Levels::new(&vec![level; n], x_t)?)
    }
}
