//! Euler steps with noise as the library makes them: it asks the network before it adds the noise, not after.

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, Edm};
use diffusion_sample::{Churn, Sampler, Step};

/// How x̂₀ follows when noise has been added to x and the network's output is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kept {
    /// The output is ε̂: x̂₀ = x − σ̂·ε̂ with the raised σ̂.
    Noise,
    /// The output is x̂₀.
    Image,
    /// The output is v: x̂₀ = x/(σ² + 1) − … with the σ before noise was added.
    Velocity,
    /// The output is preconditioned, with the raised σ̂.
    Edm(Edm),
}

/// [`diffusion_sample::Euler`] with the network's look before the noise.
pub(crate) struct ChurnedEuler {
    pub(crate) churn: Churn,
    pub(crate) kept: Kept,
}

impl Sampler for ChurnedEuler {
    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let said = denoiser.denoise(x, step.from)?;
        let (noisier, level) = self.churn.apply(step, x)?;
        let (sigma, raised) = (step.from.sigma(), level.sigma());
        let x0 = match self.kept {
            Kept::Noise => (&noisier - said.noise.affine(raised, 0.0)?)?,
            Kept::Image => said.x0,
            Kept::Velocity => (said.x0 + (&noisier - x)?.affine(1.0 / (sigma * sigma + 1.0), 0.0)?)?,
            Kept::Edm(edm) => {
                let (before, after) = (edm.factors(sigma), edm.factors(raised));
                let output = (said.x0 - x.affine(before.skip, 0.0)?)?.affine(after.out / before.out, 0.0)?;
                (output + noisier.affine(after.skip, 0.0)?)?
            }
        };
        let slope = (&noisier - x0)?.affine(1.0 / raised, 0.0)?;
        noisier + slope.affine(step.to.sigma() - raised, 0.0)?
    }
}
