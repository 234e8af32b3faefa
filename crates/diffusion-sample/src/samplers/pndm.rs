//! Pseudo-numerical methods (Liu et al. 2022): multistep and Runge–Kutta formulas for ε̂, with
//! DDIM's transfer as the step.

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, Levels, NoiseLevel, Parametrisation, Prediction};

use super::History;
use crate::arithmetic::{MAX_GAIN, combination, transfer};
use crate::{Sampler, Step};

/// F-PNDM (algorithm 2). With [`Pndm::runge_kutta`] = false: PLMS as in latent diffusion.
#[derive(Clone, Debug)]
pub struct Pndm {
    /// Begin with three steps of the fourth-order Runge–Kutta formula, four predictions each. If
    /// false, begin with one step of two predictions and shorter multistep formulas. Default:
    /// false.
    pub runge_kutta: bool,
    /// The parametrisation in which predictions are averaged. Default: ε.
    pub average: Parametrisation,
    history: History,
}

impl Default for Pndm {
    fn default() -> Self {
        Self::new(false, Parametrisation::Epsilon)
    }
}

/// The number of Runge–Kutta steps, and of earlier predictions in the multistep formula.
const RUNGE_KUTTA_STEPS: usize = 3;

impl Pndm {
    /// A method that begins with or without Runge–Kutta steps and averages in the given
    /// parametrisation.
    pub fn new(runge_kutta: bool, average: impl Into<Parametrisation>) -> Self {
        Self { runge_kutta, average: average.into(), history: History::default() }
    }

    fn predict(&self, denoiser: &dyn Denoiser, x: &Tensor, level: NoiseLevel) -> Result<Tensor> {
        let prediction = denoiser.denoise(x, level)?;
        self.average.from_prediction(&prediction, &levels(x, &level)?)
    }

    /// Takes `x` from one level to another with an averaged prediction.
    fn advance(
        &self,
        average: &Tensor,
        x: &Tensor,
        from: &NoiseLevel,
        to: &NoiseLevel,
    ) -> Result<Tensor> {
        let Prediction { noise, .. } = self.average.to_prediction(average, x, &levels(x, from)?)?;
        transfer(x, &noise, from, to)
    }

    /// Eq. 12: four predictions, two of them in the middle of the step.
    fn runge_kutta_step(
        &mut self,
        step: &Step<'_>,
        x: &Tensor,
        denoiser: &dyn Denoiser,
    ) -> Result<Tensor> {
        let (from, to, middle) = (&step.from, &step.to, step.middle());
        let first = self.predict(denoiser, x, *from)?;
        let second = self.predict(denoiser, &self.advance(&first, x, from, &middle)?, middle)?;
        let third = self.predict(denoiser, &self.advance(&second, x, from, &middle)?, middle)?;
        let fourth = self.predict(denoiser, &self.advance(&third, x, from, to)?, *to)?;
        let (outer, inner) = (1.0 / 6.0, 1.0 / 3.0);
        let average =
            combination(&[(outer, &first), (inner, &second), (inner, &third), (outer, &fourth)])?;
        self.history.push(*from, first, RUNGE_KUTTA_STEPS);
        self.advance(&average, x, from, to)
    }
}

fn levels(x: &Tensor, level: &NoiseLevel) -> Result<Levels> {
    Levels::new(&vec![*level; x.dim(0)?], x)
}

impl Sampler for Pndm {
    fn begin(&mut self) {
        self.history.clear();
    }

    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let (from, to) = (&step.from, &step.to);
        if to.signal > MAX_GAIN * from.signal || to.is_clean() && self.history.all().is_empty() {
            // The transfer is impossible from pure noise, and a clean image allows no second
            // prediction.
            let Prediction { x0, noise, .. } = denoiser.denoise(x, *from)?;
            return combination(&[(to.signal, &x0), (to.noise, &noise)]);
        }
        if self.runge_kutta && step.number < RUNGE_KUTTA_STEPS && !to.is_clean() {
            return self.runge_kutta_step(step, x, denoiser);
        }
        let latest = self.predict(denoiser, x, *from)?;
        let average = match self.history.all() {
            [] => {
                let ahead = self.predict(denoiser, &self.advance(&latest, x, from, to)?, *to)?;
                combination(&[(0.5, &latest), (0.5, &ahead)])?
            }
            // Eq. 10 and its shorter forms.
            [(_, a)] => combination(&[(1.5, &latest), (-0.5, a)])?,
            [(_, a), (_, b)] => {
                combination(&[(23.0 / 12.0, &latest), (-16.0 / 12.0, a), (5.0 / 12.0, b)])?
            }
            [(_, a), (_, b), (_, c), ..] => combination(&[
                (55.0 / 24.0, &latest),
                (-59.0 / 24.0, a),
                (37.0 / 24.0, b),
                (-9.0 / 24.0, c),
            ])?,
        };
        self.history.push(*from, latest, RUNGE_KUTTA_STEPS);
        self.advance(&average, x, from, to)
    }
}
