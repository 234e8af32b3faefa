//! The timesteps or noise levels of inference with fewer steps than in training.

use serde::{Deserialize, Serialize};

use crate::ScheduleError;
use crate::betas::linspace;
use crate::names::names;

/// How N inference timesteps are chosen from T training timesteps (Lin et al. 2024, table 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of ⌊T/N⌋ from 0 up. Includes the cleanest step and leaves out the noisiest.
    #[default]
    Leading,
    /// Evenly spaced from 0 to T − 1, both included, rounded to whole timesteps (ties to even).
    Linspace,
    /// Every T/N timesteps from T − 1 down, rounded. Includes the noisiest step.
    Trailing,
}

impl TimestepSpacing {
    /// The N timesteps, rounded to whole numbers, smallest first.
    ///
    /// # Errors
    /// If `num_inference` is 0 or larger than `num_train`.
    pub fn timesteps(
        self,
        num_train: usize,
        num_inference: usize,
    ) -> Result<Vec<usize>, ScheduleError> {
        let (t, n) = (num_train, num_inference);
        if n == 0 || n > t {
            return Err(ScheduleError::InferenceSteps { requested: n, available: t });
        }
        Ok(self.points(t, n).into_iter().map(|t| t.round_ties_even() as usize).collect())
    }

    /// The N timesteps before rounding, smallest first.
    ///
    /// Only [`TimestepSpacing::Linspace`] gives fractions, for samplers that use noise levels
    /// between the trained ones. If N is above T, timesteps repeat.
    pub fn points(self, num_train: usize, num_inference: usize) -> Vec<f64> {
        let (t, n) = (num_train, num_inference);
        match self {
            Self::Leading => (0..n).map(|i| (i * (t / n)) as f64).collect(),
            Self::Linspace => linspace(0.0, (t - 1) as f64, n).collect(),
            Self::Trailing => {
                let step = t as f64 / n as f64;
                (0..n).rev().map(|i| (t as f64 - i as f64 * step).round_ties_even() - 1.0).collect()
            }
        }
    }
}

names!(TimestepSpacing {
    Leading => "leading",
    Linspace => "linspace",
    Trailing => "trailing",
});

/// How the noise levels σ of a sampling plan are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigmaSpacing {
    /// The σ of the timesteps that [`TimestepSpacing`] selects.
    #[default]
    Timesteps,
    /// σ^(1/ρ) evenly spaced, with ρ = 7 (Karras et al. 2022, eq. 5). Most steps are at low noise.
    Karras,
    /// ln σ evenly spaced.
    Exponential,
}

impl SigmaSpacing {
    /// `n` values of σ from `max` down to `min`, both included.
    ///
    /// `rho` is the ρ of [`SigmaSpacing::Karras`], usually [`KARRAS_RHO`]; the other variants
    /// ignore it. [`SigmaSpacing::Timesteps`] has no formula of its own and spaces ln σ evenly.
    pub fn sigmas(self, n: usize, min: f64, max: f64, rho: f64) -> Vec<f64> {
        let share = |i: usize| if n > 1 { i as f64 / (n - 1) as f64 } else { 0.0 };
        let between = |max: f64, min: f64, i| max + share(i) * (min - max);
        match self {
            Self::Karras => {
                let root = |sigma: f64| sigma.powf(1.0 / rho);
                (0..n).map(|i| between(root(max), root(min), i).powf(rho)).collect()
            }
            Self::Timesteps | Self::Exponential => {
                (0..n).map(|i| between(max.ln(), min.ln(), i).exp()).collect()
            }
        }
    }
}

names!(SigmaSpacing {
    Timesteps => "timesteps",
    Karras => "karras",
    Exponential => "exponential",
});

/// ρ of the sampling steps of Karras et al. 2022 (table 1).
pub const KARRAS_RHO: f64 = 7.0;

/// The smallest and the largest σ of the sampling steps of Karras et al. 2022 (table 1).
pub const KARRAS_SIGMAS: [f64; 2] = [0.002, 80.0];
