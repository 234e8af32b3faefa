//! The timesteps and σ that the library's schedulers visit.

use diffusion_schedule::{SigmaSpacing, TimestepSpacing};

use crate::beta_distribution::symmetric_quantile;

/// σ for each training timestep.
pub(crate) struct Table {
    sigmas: Vec<f64>,
}

/// Both parameters of the beta distribution of Lee et al. 2024.
const BETA: f64 = 0.6;

/// How σ are spaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Spaced {
    ByTimestep,
    Karras,
    Exponential,
    Beta,
}

impl Table {
    /// From ᾱ; one of 0 becomes the number that gives σ = 4096.
    pub(crate) fn new(alphas_cumprod: &[f64]) -> Self {
        let sigma = |&a: &f64| {
            let a = if a == 0.0 { 2f64.powi(-24) } else { a };
            ((1.0 - a) / a).sqrt()
        };
        Self { sigmas: alphas_cumprod.iter().map(sigma).collect() }
    }

    pub(crate) fn smallest(&self) -> f64 {
        self.sigmas[0]
    }

    pub(crate) fn largest(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// σ at a timestep, between two of the table in proportion.
    pub(crate) fn at(&self, timestep: f64) -> f64 {
        let below = (timestep.floor() as usize).min(self.sigmas.len() - 1);
        let above = (below + 1).min(self.sigmas.len() - 1);
        self.sigmas[below] + (self.sigmas[above] - self.sigmas[below]) * timestep.fract()
    }

    /// The timestep at σ, between two of the table in proportion of ln σ; the ends beyond the ends.
    pub(crate) fn timestep(&self, sigma: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let below = self.sigmas.iter().rposition(|s| *s <= sigma).unwrap_or(0).min(last.saturating_sub(1));
        let above = (below + 1).min(last);
        let (low, high) = (self.sigmas[below].ln(), self.sigmas[above].ln());
        let share = if high > low { ((sigma.ln() - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 };
        below as f64 + share
    }
}

/// `n` values of σ, the largest first.
pub(crate) fn spaced(how: Spaced, n: usize, min: f64, max: f64) -> Vec<f64> {
    match how {
        Spaced::Karras => SigmaSpacing::Karras.sigmas(n, min, max),
        Spaced::ByTimestep | Spaced::Exponential => SigmaSpacing::Exponential.sigmas(n, min, max),
        Spaced::Beta => (0..n)
            .map(|i| {
                let p = if n > 1 { 1.0 - i as f64 / (n - 1) as f64 } else { 1.0 };
                let share = if p >= 1.0 {
                    1.0
                } else if p <= 0.0 {
                    0.0
                } else {
                    symmetric_quantile(p, BETA)
                };
                min + share * (max - min)
            })
            .collect(),
    }
}

/// `n` timesteps over `total`, the largest first, before rounding of those evenly spaced from end to end.
///
/// `points` is how many are laid, of which the smallest are left out: `n`, or one more.
pub(crate) fn timesteps(
    spacing: TimestepSpacing,
    total: usize,
    n: usize,
    points: usize,
    offset: usize,
) -> Vec<f64> {
    let mut ascending: Vec<f64> = match spacing {
        TimestepSpacing::Linspace => {
            let step = if points > 1 { (total - 1) as f64 / (points - 1) as f64 } else { 0.0 };
            (0..points).map(|i| i as f64 * step).collect()
        }
        TimestepSpacing::Leading => (0..points).map(|i| (i * (total / points) + offset) as f64).collect(),
        TimestepSpacing::Trailing => {
            let step = total as f64 / n as f64;
            (0..n).rev().map(|i| (total as f64 - i as f64 * step).round_ties_even() - 1.0).collect()
        }
    };
    ascending.reverse();
    ascending.truncate(n);
    ascending
}
