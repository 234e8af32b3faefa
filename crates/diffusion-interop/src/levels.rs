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
            // In single precision, as the table of ᾱ.
            f64::from(((1.0 - a as f32) / a as f32).sqrt())
        };
        Self { sigmas: alphas_cumprod.iter().map(sigma).collect() }
    }

    pub(crate) fn smallest(&self) -> f64 {
        self.sigmas[0]
    }

    pub(crate) fn largest(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// σ at a timestep, interpolated linearly in the table. A timestep outside the table has the σ
    /// of the nearest end.
    pub(crate) fn at(&self, timestep: f64) -> f64 {
        let timestep = timestep.clamp(0.0, (self.sigmas.len() - 1) as f64);
        let below = (timestep.floor() as usize).min(self.sigmas.len() - 1);
        let above = (below + 1).min(self.sigmas.len() - 1);
        self.sigmas[below] + (self.sigmas[above] - self.sigmas[below]) * timestep.fract()
    }

    /// The timestep at σ, interpolated linearly in ln σ. Values outside the table give its first or
    /// last timestep. The table of ln σ is in single precision, which decides whether a σ of the
    /// table counts as that timestep or as a little less.
    pub(crate) fn timestep(&self, sigma: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let log_of = |i: usize| self.sigmas[i].ln() as f32;
        let log_sigma = sigma.max(1e-10).ln();
        let below = (0..=last).rfind(|&i| f64::from(log_of(i)) <= log_sigma).unwrap_or(0);
        let below = below.min(last.saturating_sub(1));
        let above = (below + 1).min(last);
        let (low, high) = (log_of(below), log_of(above));
        let share = if high > low {
            ((f64::from(low) - log_sigma) / f64::from(low - high)).clamp(0.0, 1.0)
        } else {
            0.0
        };
        (1.0 - share) * below as f64 + share * above as f64
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

/// The timesteps of one spacing, before they are rounded, the largest first.
///
/// diffusers computes them by numpy, whose rounding errors decide where a timestep is halfway
/// between two whole numbers. With `Trailing` they may even give one timestep more, −1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimestepList {
    pub(crate) spacing: TimestepSpacing,
    /// The number of training timesteps, T.
    pub(crate) total: usize,
    /// The number of timesteps that are used; T except for a scheduler that leaves out the
    /// noisiest.
    pub(crate) used: usize,
    /// The number of sampling steps, N.
    pub(crate) steps: usize,
    /// Whether N + 1 timesteps are spaced with `Linspace` and `Leading`, and the smallest is left
    /// out.
    pub(crate) one_more: bool,
    /// What is added to the timesteps of `Leading`.
    pub(crate) offset: usize,
}

impl TimestepList {
    pub(crate) fn timesteps(self) -> Vec<f64> {
        let Self { spacing, total, used, steps, one_more, offset } = self;
        let points = steps + usize::from(one_more);
        let mut timesteps: Vec<f64> = match spacing {
            TimestepSpacing::Linspace => {
                let last = (used - 1) as f64;
                let step = last / (points - 1).max(1) as f64;
                let point = |i: usize| if i + 1 == points { last } else { i as f64 * step };
                (0..points).rev().map(|i| if points == 1 { 0.0 } else { point(i) }).collect()
            }
            TimestepSpacing::Leading => {
                let stride = used / points;
                (0..points).rev().map(|i| (i * stride + offset) as f64).collect()
            }
            TimestepSpacing::Trailing => {
                return descending(used as f64, total as f64 / steps as f64)
                    .into_iter()
                    .map(|t| t.round_ties_even() - 1.0)
                    .collect();
            }
        };
        timesteps.truncate(steps);
        timesteps
    }
}

/// numpy's `arange(start, 0, -step)`.
fn descending(start: f64, step: f64) -> Vec<f64> {
    let count = (-start / -step).ceil() as usize;
    let difference = (start - step) - start;
    (0..count).map(|i| start + i as f64 * difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailing(total: usize, steps: usize) -> Vec<f64> {
        let spacing = TimestepSpacing::Trailing;
        TimestepList { spacing, total, used: total, steps, one_more: false, offset: 0 }.timesteps()
    }

    #[test]
    fn rounding_errors_of_numpy_are_kept() {
        assert_eq!(trailing(10, 4), [9.0, 7.0, 4.0, 1.0]);
        // 50/29 is a little too small, so a 30th timestep is just above 0.
        let timesteps = trailing(50, 29);
        assert_eq!((timesteps.len(), &timesteps[27..]), (30, &[2.0, 1.0, -1.0][..]));
    }
}
