//! Which timesteps inference visits when it takes fewer steps than training had.

use serde::{Deserialize, Serialize};

use crate::ScheduleError;
use crate::betas::linspace;

/// How N inference timesteps are laid over T training timesteps (Lin et al. 2024, table 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of ⌊T/N⌋ from 0 up: includes the cleanest step, leaves out the noisiest.
    #[default]
    Leading,
    /// Evenly spaced from 0 to T − 1, both included, rounded to whole timesteps (halves to even).
    Linspace,
    /// Multiples of T/N from T − 1 down: includes the noisiest step.
    Trailing,
}

impl TimestepSpacing {
    /// The N whole timesteps, smallest first.
    ///
    /// # Errors
    /// N = 0 or N > T.
    pub fn timesteps(self, num_train: usize, num_inference: usize) -> Result<Vec<usize>, ScheduleError> {
        let points = self.points(num_train, num_inference)?;
        Ok(points.into_iter().map(|t| t.round_ties_even() as usize).collect())
    }

    /// The N timesteps before rounding, smallest first. Only [`TimestepSpacing::Linspace`] gives fractions, for
    /// samplers that work on noise levels between the trained ones; the other two are whole by definition.
    ///
    /// # Errors
    /// N = 0 or N > T.
    pub fn points(self, num_train: usize, num_inference: usize) -> Result<Vec<f64>, ScheduleError> {
        let (t, n) = (num_train, num_inference);
        if n == 0 || n > t {
            return Err(ScheduleError::InferenceSteps { requested: n, available: t });
        }
        Ok(match self {
            Self::Leading => (0..n).map(|i| (i * (t / n)) as f64).collect(),
            Self::Linspace => linspace(0.0, (t - 1) as f64, n).collect(),
            Self::Trailing => {
                let step = t as f64 / n as f64;
                (0..n).rev().map(|i| (t as f64 - i as f64 * step).round_ties_even() - 1.0).collect()
            }
        })
    }
}
