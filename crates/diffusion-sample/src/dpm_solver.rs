//! DPM-Solver++ with several steps' memory (Lu et al. 2022b, algorithm 2), and its stochastic form.

use candle_core::{Result, Tensor};
use diffusion_process::Denoiser;

use crate::arithmetic::combination;
use crate::{Sampler, Step};

/// How the second order's term is integrated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SolverType {
    /// As if x̂₀ had its value in the middle of the step.
    #[default]
    Midpoint,
    /// Exactly, for an x̂₀ that changes linearly with λ.
    Heun,
}

/// DPM-Solver++, which holds or extrapolates x̂₀ while it solves the rest exactly in λ = ln(signal/noise).
#[derive(Clone, Debug)]
pub struct DpmSolver {
    /// The steps whose x̂₀ are looked at: 1 to 3, or to 2 for the stochastic form.
    pub order: usize,
    /// For the second order.
    pub solver_type: SolverType,
    /// Solve the stochastic equation instead, with fresh noise in each step.
    pub stochastic: bool,
    /// Lower the order in the last two steps, where there are fewer than 15 in all: they are long there.
    pub lower_order_final: bool,
    /// Make the last step of first order, however many there are.
    pub euler_at_final: bool,
    /// λ and x̂₀ of the last steps, the latest first.
    history: Vec<(f64, Tensor)>,
}

impl Default for DpmSolver {
    fn default() -> Self {
        Self::new(2, SolverType::Midpoint, false)
    }
}

/// From this number of steps on the last ones need no lower order.
const MANY_STEPS: usize = 15;

impl DpmSolver {
    /// A solver that lowers its order at the end.
    pub fn new(order: usize, solver_type: SolverType, stochastic: bool) -> Self {
        Self {
            order: order.clamp(1, if stochastic { 2 } else { 3 }),
            solver_type,
            stochastic,
            lower_order_final: true,
            euler_at_final: false,
            history: Vec::new(),
        }
    }

    /// The order of a step: no more than there are earlier x̂₀ at a finite distance in λ.
    fn order_of(&self, step: &Step<'_>) -> usize {
        let few = self.lower_order_final && step.count() < MANY_STEPS;
        let most = match step.left() {
            1 if few || self.euler_at_final || step.to.is_clean() => 1,
            2 if few => 2,
            _ => self.order,
        };
        let usable = self.history.windows(2).take_while(|pair| {
            let distance = pair[0].0 - pair[1].0;
            distance.is_finite() && distance > 0.0
        });
        most.min(1 + usable.count())
    }
}

impl Sampler for DpmSolver {
    fn begin(&mut self) {
        self.history.clear();
    }

    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let Step { from, to, .. } = *step;
        self.history.insert(0, (from.lambda(), denoiser.denoise(x, from)?.x0));
        self.history.truncate(self.order);
        let order = self.order_of(step);
        // h is infinite in the last step and from noise alone; what is needed of it is not.
        let h = to.lambda() - from.lambda();
        let (k, decay) = if self.stochastic { (2.0 * h, (-h).exp()) } else { (h, 1.0) };
        // The integral of the exponential over the step, and its moments.
        let whole = -(-k).exp_m1();
        let first = match self.solver_type {
            SolverType::Midpoint if order < 3 => whole / 2.0,
            _ => 1.0 - whole / k,
        };
        let second = 0.5 - (k - whole) / (k * k);

        let x0 = &self.history[0].1;
        let mut terms = vec![(to.noise / from.noise * decay, x), (to.signal * whole, x0)];
        let slopes = (1..order).map(|i| self.slope(i - 1, h)).collect::<Result<Vec<_>>>()?;
        let curvature = match &slopes[..] {
            [near, far] => {
                let distance = (self.history[0].0 - self.history[2].0) / h;
                Some(combination(&[(1.0 / distance, near), (-1.0 / distance, far)])?)
            }
            _ => None,
        };
        if let Some(slope) = slopes.first() {
            terms.push((to.signal * first, slope));
        }
        if let Some(curvature) = &curvature {
            // The slope here rather than halfway to the last x̂₀.
            let back = (self.history[0].0 - self.history[1].0) / h;
            terms.push((to.signal * (first * back + second), curvature));
        }
        let mean = combination(&terms)?;
        if self.stochastic && step.noisy {
            return mean + step.noise()?.affine(to.noise * whole.sqrt(), 0.0)?;
        }
        Ok(mean)
    }
}

impl DpmSolver {
    /// The divided difference between the x̂₀ of number i and the one before it, times the step.
    fn slope(&self, i: usize, h: f64) -> Result<Tensor> {
        let [(after, x0), (before, x0_before)] = [&self.history[i], &self.history[i + 1]];
        let factor = h / (after - before);
        combination(&[(factor, x0), (-factor, x0_before)])
    }
}
