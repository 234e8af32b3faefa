//! DPM-Solver++ with multistep updates (Lu et al. 2022, algorithm 2), for the probability flow ODE
//! and for the SDE.
//!
//! In λ = ln(α/σ), with the signal's factor α and the noise's factor σ, the step from s to t = s +
//! h is (eq. 8, expanded as in eq. 9)
//!
//! x_t = (σ_t/σ_s)·x_s + α_t·(φ₁·D₀ + φ₂·D₁ + φ₃·D₂).
//!
//! D₀ is x̂₀ at s. D₁ and D₂ are finite differences over earlier steps for h·x̂₀′ and h²·x̂₀″. φ
//! are integrals of e^{λ−λ_t}.

use candle_core::{Result, Tensor};
use diffusion_process::Denoiser;

use super::History;
use crate::arithmetic::combination;
use crate::{Sampler, Step};

/// The choice of φ₂ in the second-order method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SolverType {
    /// φ₁/2, as if x̂₀ had its value in the middle of the step throughout.
    #[default]
    Midpoint,
    /// The exact integral for an x̂₀ that is linear in λ.
    Heun,
}

/// DPM-Solver++ (Lu et al. 2022).
#[derive(Clone, Debug)]
pub struct DpmSolver {
    /// The order: 1 to 3, for the SDE 1 or 2. Default: 2.
    pub order: usize,
    /// φ₂ of the second-order method. Default: midpoint.
    pub solver_type: SolverType,
    /// Solve the SDE (SDE-DPM-Solver++), with new noise in each step. Default: false.
    pub stochastic: bool,
    /// Lower the order in the last two steps of plans with fewer than 15 steps. Default: true.
    pub lower_order_final: bool,
    /// Take the last step with order 1, whatever the number of steps. Default: false.
    pub euler_at_final: bool,
    history: History,
}

impl Default for DpmSolver {
    fn default() -> Self {
        Self::new(2, SolverType::Midpoint, false)
    }
}

/// From this number of steps on, the last steps are short enough for the full order.
const MANY_STEPS: usize = 15;

impl DpmSolver {
    /// A solver that lowers its order at the end. `order` is clamped to 1–3, or 1–2 if
    /// `stochastic`.
    pub fn new(order: usize, solver_type: SolverType, stochastic: bool) -> Self {
        Self {
            order: order.clamp(1, if stochastic { 2 } else { 3 }),
            solver_type,
            stochastic,
            lower_order_final: true,
            euler_at_final: false,
            history: History::default(),
        }
    }

    fn order_of(&self, step: &Step<'_>) -> usize {
        let few_steps = self.lower_order_final && step.count() < MANY_STEPS;
        let max_order = match step.left() {
            1 if few_steps || self.euler_at_final || step.to.is_clean() => 1,
            2 if few_steps => 2,
            _ => self.order,
        };
        max_order.min(self.history.usable().len())
    }
}

impl Sampler for DpmSolver {
    fn begin(&mut self) {
        self.history.clear();
    }

    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let Step { from: s, to: t, .. } = *step;
        self.history.push(s, denoiser.denoise(x, s)?.x0, self.order);
        let order = self.order_of(step);

        // h is infinite in the last step and when starting from pure noise. The first-order factors
        // are finite there too.
        let h = t.lambda() - s.lambda();
        // The SDE has e^{−2h} instead of e^{−h}, and x_s decays by another e^{−h}.
        let (k, decay) = if self.stochastic { (2.0 * h, (-h).exp()) } else { (h, 1.0) };
        let phi_1 = -(-k).exp_m1();
        let phi_2 = match self.solver_type {
            SolverType::Midpoint if order < 3 => phi_1 / 2.0,
            _ => 1.0 - phi_1 / k,
        };
        // As in the authors' code; the integral of ((λ − λ_s)/h)² is twice as large.
        let phi_3 = 0.5 - (k - phi_1) / (k * k);

        let predictions = self.history.all();
        let (lambda, x0) = (|i: usize| predictions[i].0.lambda(), |i: usize| &predictions[i].1);
        // `slope(i)` is h times the slope of x̂₀ from prediction i to the next one. `r(i)` is the
        // distance of prediction i from s, in units of h.
        let slope = |i: usize| {
            let factor = h / (lambda(i - 1) - lambda(i));
            combination(&[(factor, x0(i - 1)), (-factor, x0(i))])
        };
        let r = |i: usize| (lambda(0) - lambda(i)) / h;

        let x_s = (t.noise / s.noise * decay, x);
        let d0 = (t.signal * phi_1, x0(0));
        let mean = match order {
            1 => combination(&[x_s, d0])?,
            2 => combination(&[x_s, d0, (t.signal * phi_2, &slope(1)?)])?,
            _ => {
                let (d1, d1_before) = (slope(1)?, slope(2)?);
                let d2 = combination(&[(1.0 / r(2), &d1), (-1.0 / r(2), &d1_before)])?;
                // D₁ is the slope halfway to the previous prediction; at s it is D₁ + r₁·D₂.
                let (a1, a2) = (t.signal * phi_2, t.signal * (phi_2 * r(1) + phi_3));
                combination(&[x_s, d0, (a1, &d1), (a2, &d2)])?
            }
        };
        if self.stochastic && step.noisy {
            return mean + step.noise()?.affine(t.noise * phi_1.sqrt(), 0.0)?;
        }
        Ok(mean)
    }
}
