//! PNDM with the timesteps of diffusers, which evaluates the network at other timesteps than those
//! that it moves to.

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, Levels, NoiseLevel, Parametrisation, Prediction};
use diffusion_sample::{Sampler, Step};

/// [`diffusion_sample::Pndm`] with the warm-up of diffusers: half a step is ⌊⌊T/N⌋/2⌋ timesteps,
/// counted from the end of the step for the network, and from its start for the first move.
pub(crate) struct PlainPndm {
    /// Whether to begin with three Runge–Kutta steps of four predictions each.
    pub(crate) runge_kutta: bool,
    /// The parametrisation of the network's output, in which predictions are averaged.
    pub(crate) parametrisation: Parametrisation,
    /// The levels of all timesteps.
    pub(crate) levels: Vec<NoiseLevel>,
    /// The latest outputs, the newest last.
    history: Vec<Tensor>,
}

/// The number of Runge–Kutta steps, and of earlier outputs in the multistep formula.
pub(crate) const RUNGE_KUTTA_STEPS: usize = 3;

impl PlainPndm {
    pub(crate) fn new(
        runge_kutta: bool,
        parametrisation: Parametrisation,
        levels: Vec<NoiseLevel>,
    ) -> Self {
        Self { runge_kutta, parametrisation, levels, history: Vec::new() }
    }

    /// The level at a timestep, with `seen` as the timestep that the network receives.
    fn level(&self, timestep: f64, seen: f64) -> NoiseLevel {
        let last = self.levels.len() - 1;
        NoiseLevel { timestep: seen, ..self.levels[(timestep.max(0.0) as usize).min(last)] }
    }

    fn output(&self, denoiser: &dyn Denoiser, x: &Tensor, level: NoiseLevel) -> Result<Tensor> {
        let prediction = denoiser.denoise(x, level)?;
        self.parametrisation.from_prediction(&prediction, &of_batch(x, &level)?)
    }

    /// Moves `x` from one level to another with an averaged output (Liu et al. 2022, equation 9).
    fn advance(
        &self,
        output: &Tensor,
        x: &Tensor,
        from: &NoiseLevel,
        to: &NoiseLevel,
    ) -> Result<Tensor> {
        let Prediction { x0, noise, .. } =
            self.parametrisation.to_prediction(output, x, &of_batch(x, from)?)?;
        x0.affine(to.signal, 0.0)? + noise.affine(to.noise, 0.0)?
    }

    /// Keeps `output` as the newest of at most four.
    fn remember(&mut self, output: Tensor) {
        if self.history.len() > RUNGE_KUTTA_STEPS {
            self.history.remove(0);
        }
        self.history.push(output);
    }

    fn runge_kutta_step(
        &mut self,
        step: &Step<'_>,
        x: &Tensor,
        denoiser: &dyn Denoiser,
    ) -> Result<Tensor> {
        let (from, to) = (&step.from, &step.to);
        let half = (self.stride(step) / 2) as f64;
        // The timestep that the network receives in the middle of the step.
        let middle = to.timestep + half;
        let moved = self.level(from.timestep - half, middle);
        let seen = self.level(middle, middle);
        let first = self.output(denoiser, x, *from)?;
        let second = self.output(denoiser, &self.advance(&first, x, from, &moved)?, moved)?;
        let third = self.output(denoiser, &self.advance(&second, x, from, &seen)?, seen)?;
        let fourth = self.output(denoiser, &self.advance(&third, x, from, to)?, *to)?;
        let (outer, inner) = (1.0 / 6.0, 1.0 / 3.0);
        let average = sum(&[(outer, &first), (inner, &second), (inner, &third), (outer, &fourth)])?;
        self.remember(first);
        self.advance(&average, x, from, to)
    }

    /// ⌊T/N⌋. N is the number of steps without one at timestep −1.
    fn stride(&self, step: &Step<'_>) -> usize {
        let steps = step.plan.steps().iter().filter(|step| step.from.timestep >= 0.0).count();
        self.levels.len() / steps.max(1)
    }

    /// The first step without Runge–Kutta: two outputs, whose mean takes the whole step.
    fn first_step(
        &mut self,
        step: &Step<'_>,
        x: &Tensor,
        denoiser: &dyn Denoiser,
    ) -> Result<Tensor> {
        let (from, to) = (&step.from, &step.to);
        let stride = self.stride(step) as f64;
        let first = self.output(denoiser, x, *from)?;
        self.remember(first.clone());
        let moved = self.level(from.timestep - stride, to.timestep);
        let second = self.output(denoiser, &self.advance(&first, x, from, &moved)?, moved)?;
        let from = self.level(to.timestep + stride, to.timestep);
        self.advance(&sum(&[(0.5, &first), (0.5, &second)])?, x, &from, to)
    }
}

fn of_batch(x: &Tensor, level: &NoiseLevel) -> Result<Levels> {
    Levels::new(&vec![*level; x.dim(0)?], x)
}

fn sum(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let mut terms = terms.iter().map(|(factor, tensor)| tensor.affine(*factor, 0.0));
    let first = terms.next().unwrap_or_else(|| candle_core::bail!("a sum needs a term"))?;
    terms.try_fold(first, |sum, term| sum + term?)
}

impl Sampler for PlainPndm {
    fn begin(&mut self) {
        self.history.clear();
    }

    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        if self.runge_kutta && step.number < RUNGE_KUTTA_STEPS {
            return self.runge_kutta_step(step, x, denoiser);
        }
        if !self.runge_kutta && step.number == 0 && step.count() > 1 {
            return self.first_step(step, x, denoiser);
        }
        let latest = self.output(denoiser, x, step.from)?;
        self.remember(latest);
        let average = match self.history.as_slice() {
            [.., d, c, b, a] => {
                sum(&[(55.0 / 24.0, a), (-59.0 / 24.0, b), (37.0 / 24.0, c), (-9.0 / 24.0, d)])?
            }
            [c, b, a] => sum(&[(23.0 / 12.0, a), (-16.0 / 12.0, b), (5.0 / 12.0, c)])?,
            [b, a] => sum(&[(1.5, a), (-0.5, b)])?,
            outputs => outputs[0].clone(),
        };
        self.advance(&average, x, &step.from, &step.to)
    }
}
