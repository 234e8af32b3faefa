//! The timesteps and σ of the schedulers of diffusers.

use diffusion_schedule::{KARRAS_RHO, SigmaSpacing, TimestepSpacing};

use crate::beta_distribution::symmetric_quantile;

/// σ of each training timestep.
pub(crate) struct SigmaTable {
    sigmas: Vec<f64>,
}

/// Both parameters of the beta distribution of Lee et al. 2024.
const BETA: f64 = 0.6;

/// How the values of σ are spaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sigmas {
    /// A spacing of `diffusion-schedule`.
    Standard(SigmaSpacing),
    /// Quantiles of a beta distribution (Lee et al. 2024).
    Beta,
}

impl SigmaTable {
    /// The table for the given ᾱ. ᾱ = 0 is replaced by 2⁻²⁴, which gives σ ≈ 4096.
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

    /// σ at a timestep, interpolated linearly in the table.
    pub(crate) fn at(&self, timestep: f64) -> f64 {
        let below = (timestep.floor() as usize).min(self.sigmas.len() - 1);
        let above = (below + 1).min(self.sigmas.len() - 1);
        self.sigmas[below] + (self.sigmas[above] - self.sigmas[below]) * timestep.fract()
    }

    /// The timestep at σ, interpolated linearly in ln σ. Values outside the table give its first or
    /// last timestep.
    pub(crate) fn timestep(&self, sigma: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let below =
            self.sigmas.iter().rposition(|s| *s <= sigma).unwrap_or(0).min(last.saturating_sub(1));
        let above = (below + 1).min(last);
        let (low, high) = (self.sigmas[below].ln(), self.sigmas[above].ln());
        let share =
            if high > low { ((sigma.ln() - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 };
        below as f64 + share
    }
}

/// `n` values of σ, the largest first.
pub(crate) fn spaced_sigmas(sigmas: Sigmas, n: usize, min: f64, max: f64) -> Vec<f64> {
    match sigmas {
        Sigmas::Standard(spacing) => spacing.sigmas(n, min, max, KARRAS_RHO),
        Sigmas::Beta => (0..n)
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

/// `n` of `total` training timesteps, the largest first. Those of `Linspace` are not rounded.
///
/// With `Linspace` and `Leading`, `points` timesteps are spaced (`n` or `n` + 1), and the largest
/// `n` of them are used.
pub(crate) fn timesteps(
    spacing: TimestepSpacing,
    total: usize,
    n: usize,
    points: usize,
    offset: usize,
) -> Vec<f64> {
    let mut ascending = match spacing {
        TimestepSpacing::Linspace => spacing.points(total, points),
        TimestepSpacing::Leading => {
            spacing.points(total, points).into_iter().map(|t| t + offset as f64).collect()
        }
        TimestepSpacing::Trailing => spacing.points(total, n),
    };
    ascending.reverse();
    ascending.truncate(n);
    ascending
}
