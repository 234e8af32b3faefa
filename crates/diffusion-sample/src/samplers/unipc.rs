//! UniPC (Zhao et al. 2023): a multistep predictor (UniP), and a corrector (UniC) that repeats the
//! previous step with the next prediction.
//!
//! In λ = ln(α/σ), with the signal's factor α and the noise's factor σ, both take x from s to t = s
//! + h by (eq. 3, for a model of ε)
//!
//! x_t = (α_t/α_s)·x_s − σ_t·(e^h − 1)·m₀ − σ_t·B(h)·Σ aᵢ·(mᵢ − m₀)/rᵢ.
//!
//! m₀ is the model's prediction at s, and mᵢ its prediction at λ_s + rᵢ·h: from earlier steps, and
//! for UniC also at t (r = 1). A model of x₀ has σ_t/σ_s, α_t and −h instead of α_t/α_s, σ_t and h.

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, NoiseLevel};

use super::History;
use crate::arithmetic::{combination, solve};
use crate::{Sampler, Step};

/// B(h), which scales the corrections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weighting {
    /// B(h) = h.
    Bh1,
    /// B(h) = e^h − 1.
    #[default]
    Bh2,
}

/// UniPC of order 1 to 4 (Zhao et al. 2023).
#[derive(Clone, Debug)]
pub struct UniPc {
    /// The predictor's order, 1 to 4. Default: 2.
    pub order: usize,
    /// B(h). Default: e^h − 1.
    pub weighting: Weighting,
    /// Extrapolate x̂₀, as DPM-Solver++ does; if false, ε̂. Default: true.
    pub predict_x0: bool,
    /// Lower the order in the last steps. Default: true.
    pub lower_order_final: bool,
    /// Steps without correction, counted from 0. Default: none.
    pub uncorrected: Vec<usize>,
    history: History,
    /// The order, start level and image of the previous step, which the corrector repeats.
    last: Option<(usize, NoiseLevel, Tensor)>,
}

impl Default for UniPc {
    fn default() -> Self {
        Self::new(2)
    }
}

impl UniPc {
    /// A solver that predicts x₀. `order` is clamped to 1–4.
    pub fn new(order: usize) -> Self {
        Self {
            order: order.clamp(1, 4),
            weighting: Weighting::default(),
            predict_x0: true,
            lower_order_final: true,
            uncorrected: Vec::new(),
            history: History::default(),
            last: None,
        }
    }

    fn order_of(&self, step: &Step<'_>) -> usize {
        let lower = self.lower_order_final || step.to.is_clean();
        let max_order = if lower { step.left().min(self.order) } else { self.order };
        max_order.min(self.history.usable().len())
    }

    /// Eq. 3 with the latest `order` predictions, and for UniC also with the prediction `at_t`.
    fn update(
        &self,
        order: usize,
        [s, t]: [&NoiseLevel; 2],
        x_s: &Tensor,
        at_t: Option<&Tensor>,
    ) -> Result<Tensor> {
        let length = t.lambda() - s.lambda();
        let (h, decay, scale) = if self.predict_x0 {
            (-length, t.noise / s.noise, -t.signal)
        } else {
            (length, t.signal / s.signal, -t.noise)
        };
        let phi_1 = h.exp_m1();
        let b = match self.weighting {
            Weighting::Bh1 => h,
            Weighting::Bh2 => phi_1,
        };
        let (m0, earlier) = (&self.history.all()[0].1, &self.history.all()[1..order]);
        let r = earlier.iter().map(|(level, _)| (level.lambda() - s.lambda()) / length);
        let r: Vec<f64> = r.chain(at_t.map(|_| 1.0)).collect();
        let m = earlier.iter().map(|(_, prediction)| prediction).chain(at_t);

        let mut terms = vec![(decay, x_s), (scale * phi_1, m0)];
        for ((m, r), a) in m.zip(&r).zip(coefficients(&r, h, b)) {
            let factor = scale * b * a / r;
            terms.extend([(factor, m), (-factor, m0)]);
        }
        combination(&terms)
    }
}

/// The aᵢ with Σ aᵢ·rᵢᵏ⁻¹ = h·k!·φₖ₊₁(h)/B(h) for k = 1, 2, … (eq. 5), where φ₁(h) = (e^h − 1)/h
/// and φₖ₊₁(h) = (φₖ(h) − 1/k!)/h. A single coefficient is ½ for both B(h) (section 3.1).
fn coefficients(r: &[f64], h: f64, b: f64) -> Vec<f64> {
    if r.len() <= 1 {
        return vec![0.5; r.len()];
    }
    let (mut rows, mut right) = (Vec::new(), Vec::new());
    // h·φₖ₊₁(h) and k!.
    let (mut phi, mut factorial) = (h.exp_m1() / h - 1.0, 1.0);
    for (k, _) in (1..).zip(r) {
        rows.push(r.iter().map(|r| r.powi(k - 1)).collect());
        right.push(phi * factorial / b);
        factorial *= f64::from(k + 1);
        phi = phi / h - 1.0 / factorial;
    }
    solve(rows, right)
}

impl Sampler for UniPc {
    fn begin(&mut self) {
        self.history.clear();
        self.last = None;
    }

    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let Step { from: s, to: t, .. } = *step;
        let prediction = denoiser.denoise(x, s)?;
        let prediction = if self.predict_x0 { prediction.x0 } else { prediction.noise };
        // UniC: repeats the previous step, which led here.
        let x = match &self.last {
            Some((order, before, x_before)) if !self.uncorrected.contains(&(step.number - 1)) => {
                self.update(*order, [before, &s], x_before, Some(&prediction))?
            }
            _ => x.clone(),
        };
        // UniP.
        self.history.push(s, prediction, self.order);
        let order = self.order_of(step);
        let predicted = self.update(order, [&s, &t], &x, None)?;
        self.last = Some((order, s, x));
        Ok(predicted)
    }
}
