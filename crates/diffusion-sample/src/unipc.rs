//! UniPC (Zhao et al. 2023): a multistep predictor, and with the next look at the model a corrector of the step just made.

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, NoiseLevel};

use crate::arithmetic::{combination, solve};
use crate::{Sampler, Step};

/// B(h) of the paper, which weighs the corrections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weighting {
    /// B(h) = h.
    Bh1,
    /// B(h) = e^h − 1.
    #[default]
    Bh2,
}

/// UniPC of any order up to 4 in λ = ln(signal/noise).
#[derive(Clone, Debug)]
pub struct UniPc {
    /// The steps that are looked at, 1 to 4.
    pub order: usize,
    /// B(h).
    pub weighting: Weighting,
    /// Extrapolate x̂₀, as DPM-Solver++ does, rather than ε̂.
    pub predict_x0: bool,
    /// Lower the order in the last steps.
    pub lower_order_final: bool,
    /// Steps, counted from 0, that are left uncorrected.
    pub uncorrected: Vec<usize>,
    /// λ and x̂₀ or ε̂ of the last steps, the latest first.
    history: Vec<(f64, Tensor)>,
    /// The last step: its order, where it began and the image there.
    last: Option<(usize, NoiseLevel, Tensor)>,
}

impl Default for UniPc {
    fn default() -> Self {
        Self::new(2)
    }
}

impl UniPc {
    /// A solver of the given order that predicts x₀.
    pub fn new(order: usize) -> Self {
        Self {
            order: order.clamp(1, 4),
            weighting: Weighting::default(),
            predict_x0: true,
            lower_order_final: true,
            uncorrected: Vec::new(),
            history: Vec::new(),
            last: None,
        }
    }

    fn order_of(&self, step: &Step<'_>) -> usize {
        let most = if self.lower_order_final || step.to.is_clean() {
            step.left().min(self.order)
        } else {
            self.order
        };
        let usable = self.history.windows(2).take_while(|pair| {
            let distance = pair[0].0 - pair[1].0;
            distance.is_finite() && distance > 0.0
        });
        most.min(1 + usable.count())
    }

    /// One update from `from` to `to` with the history's first `order` entries (eq. 3) and, for the corrector, what the
    /// model says at `to` (eq. 8).
    fn update(
        &self,
        order: usize,
        [from, to]: [&NoiseLevel; 2],
        x: &Tensor,
        ahead: Option<&Tensor>,
    ) -> Result<Tensor> {
        let h = to.lambda() - from.lambda();
        let hh = if self.predict_x0 { -h } else { h };
        let whole = hh.exp_m1();
        let b_of_h = if self.weighting == Weighting::Bh1 { hh } else { whole };
        let (kept, scale) = if self.predict_x0 {
            (to.noise / from.noise, -to.signal)
        } else {
            (to.signal / from.signal, -to.noise)
        };
        let (lambda, now) = &self.history[0];
        // The other predictions, by their distance in steps of h.
        let mut others: Vec<(f64, &Tensor)> =
            self.history[1..order].iter().map(|(other, said)| ((other - lambda) / h, said)).collect();
        others.extend(ahead.map(|said| (1.0, said)));
        let places: Vec<f64> = others.iter().map(|(place, _)| *place).collect();
        let weights = weights(&places, hh, b_of_h);
        let mut terms = vec![(kept, x), (scale * whole, now)];
        for ((place, said), weight) in others.iter().zip(weights) {
            let factor = scale * b_of_h * weight / place;
            terms.push((factor, *said));
            terms.push((-factor, now));
        }
        combination(&terms)
    }
}

/// The weights of the differences at the given `places`, from R·a = b (eq. 5); a single one is ½, which serves both
/// weightings (section 3.1).
fn weights(places: &[f64], hh: f64, b_of_h: f64) -> Vec<f64> {
    if places.len() <= 1 {
        return vec![0.5; places.len()];
    }
    let mut phi = hh.exp_m1() / hh - 1.0;
    let mut factorial = 1.0;
    let (mut rows, mut right) = (Vec::new(), Vec::new());
    let mut powers = vec![1.0; places.len()];
    for i in 0..places.len() {
        let higher = powers.iter().zip(places).map(|(power, place)| power * place).collect();
        rows.push(std::mem::replace(&mut powers, higher));
        right.push(phi * factorial / b_of_h);
        factorial *= (i + 2) as f64;
        phi = phi / hh - 1.0 / factorial;
    }
    solve(rows, right)
}

impl Sampler for UniPc {
    fn begin(&mut self) {
        self.history.clear();
        self.last = None;
    }

    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let prediction = denoiser.denoise(x, step.from)?;
        let said = if self.predict_x0 { prediction.x0 } else { prediction.noise };
        let x = match &self.last {
            Some((order, from, before)) if !self.uncorrected.contains(&(step.number - 1)) => {
                self.update(*order, [from, &step.from], before, Some(&said))?
            }
            _ => x.clone(),
        };
        self.history.insert(0, (step.from.lambda(), said));
        self.history.truncate(self.order);
        let order = self.order_of(step);
        let predicted = self.update(order, [&step.from, &step.to], &x, None)?;
        self.last = Some((order, step.from, x));
        Ok(predicted)
    }
}
