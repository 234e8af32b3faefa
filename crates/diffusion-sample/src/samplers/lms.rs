//! The linear multistep method in σ (Adams & Bashforth, with steps of variable length).

use candle_core::{Result, Tensor};
use diffusion_process::Denoiser;

use super::History;
use crate::arithmetic::combination;
use crate::{Sampler, Step};

/// Linear multistep: x' = x + Σ cₖ·ε̂ₖ over the last steps, for a signal of 1. The sum is the
/// integral of the polynomial through the ε̂ₖ.
#[derive(Clone, Debug)]
pub struct Lms {
    order: usize,
    history: History,
}

impl Default for Lms {
    fn default() -> Self {
        Self::new(4)
    }
}

impl Lms {
    /// A method of the given order, clamped to 1–4. Default: 4.
    pub fn new(order: usize) -> Self {
        Self { order: order.clamp(1, 4), history: History::default() }
    }
}

impl Sampler for Lms {
    fn begin(&mut self) {
        self.history.clear();
    }

    fn step(&mut self, step: &Step<'_>, x: &Tensor, denoiser: &dyn Denoiser) -> Result<Tensor> {
        let Step { from, to, .. } = *step;
        let prediction = denoiser.denoise(x, from)?;
        if from.signal == 0.0 {
            // At pure noise σ is infinite, so no polynomial can be fitted.
            return combination(&[(to.signal, &prediction.x0), (to.noise, &prediction.noise)]);
        }
        self.history.push(from, prediction.noise, self.order);
        let predictions = self.history.usable();
        let nodes: Vec<f64> = predictions.iter().map(|(level, _)| level.sigma()).collect();
        let mut terms = vec![(to.signal / from.signal, x)];
        for (k, (_, noise)) in predictions.iter().enumerate() {
            terms.push((to.signal * integral(&nodes, k, from.sigma(), to.sigma()), noise));
        }
        combination(&terms)
    }
}

/// The integral from `a` to `b` of the polynomial that is 1 at node k and 0 at the other nodes.
fn integral(nodes: &[f64], k: usize, a: f64, b: f64) -> f64 {
    // Gauss–Legendre quadrature with two points, exact up to the third degree.
    let (middle, half) = (f64::midpoint(a, b), (b - a) / 2.0);
    let at = |x: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|(j, _)| *j != k);
        others.map(|(_, node)| (x - node) / (nodes[k] - node)).product()
    };
    let offset = half / 3f64.sqrt();
    half * (at(middle - offset) + at(middle + offset))
}
