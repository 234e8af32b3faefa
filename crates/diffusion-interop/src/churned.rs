//! Euler steps with added noise as in diffusers: the network is evaluated before the noise is
//! added, not after.

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, NoiseLevel, Parametrisation};
use diffusion_sample::{Churn, Sampler, Step};

/// The relative rounding error of σ in diffusers.
const ROUNDING: f64 = 1e-6;

/// [`diffusion_sample::Euler`] with the network evaluated before the noise is added.
pub(crate) struct ChurnedEuler {
    pub(crate) churn: Churn,
    /// The parametrisation of the network's output. The output stays the same while x and σ change.
    pub(crate) parametrisation: Parametrisation,
}

impl Sampler for ChurnedEuler {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let prediction = denoiser.denoise(x, step.from)?;
        // The ends of the range count, as σ in single precision.
        let churn = Churn {
            min: self.churn.min * (1.0 - ROUNDING),
            max: self.churn.max * (1.0 + ROUNDING),
            ..self.churn
        };
        let (noisier, level) = churn.apply(step, x)?;
        let (sigma, raised) = (step.from.sigma(), level.sigma());
        let x0 = match self.parametrisation {
            // x̂₀ = x − σ̂·ε̂ with the raised σ̂.
            Parametrisation::Epsilon => (&noisier - prediction.noise.affine(raised, 0.0)?)?,
            Parametrisation::Sample => prediction.x0,
            // x̂₀ = x/(σ² + 1) − … with the σ before noise was added.
            Parametrisation::VPrediction | Parametrisation::Flow => {
                (prediction.x0 + (&noisier - x)?.affine(1.0 / (sigma * sigma + 1.0), 0.0)?)?
            }
            // Preconditioned with the raised σ̂.
            Parametrisation::Edm { .. } => {
                let at = |sigma| {
                    self.parametrisation
                        .preconditioning(&NoiseLevel::variance_exploding(0.0, sigma))
                };
                let (before, after) = (at(sigma), at(raised));
                let output = (prediction.x0 - x.affine(before.c_skip, 0.0)?)?
                    .affine(after.c_out / before.c_out, 0.0)?;
                (output + noisier.affine(after.c_skip, 0.0)?)?
            }
        };
        let slope = (&noisier - x0)?.affine(1.0 / raised, 0.0)?;
        noisier + slope.affine(step.to.sigma() - raised, 0.0)?
    }
}
