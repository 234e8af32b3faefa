//! The β schedules and the configuration of a noise schedule.

use serde::{Deserialize, Serialize};

use crate::{NoiseSchedule, ScheduleError};

/// The formula of β over the timesteps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BetaSchedule {
    /// β evenly spaced from `beta_start` to `beta_end`, both included (Ho et al. 2020).
    #[default]
    #[serde(rename = "linear")]
    Linear,
    /// √β evenly spaced, then squared (Rombach et al. 2022).
    #[serde(rename = "scaled_linear")]
    ScaledLinear,
    /// ᾱ follows a squared cosine with s = 0.008; β is at most 0.999 (Nichol & Dhariwal 2021,
    /// eq. 17). `beta_start` and `beta_end` are not used.
    #[serde(rename = "squaredcos_cap_v2")]
    Cosine,
    /// A logistic curve over [−6, 6], scaled to the range from `beta_start` to `beta_end` (Xu et
    /// al. 2022, GeoDiff).
    #[serde(rename = "sigmoid")]
    Sigmoid,
}

/// The settings of a [`NoiseSchedule`]. Default: DDPM's linear schedule of 1000 steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// T, the number of steps of the forward process. At least 1.
    pub num_train_timesteps: usize,
    /// The formula of β.
    pub beta_schedule: BetaSchedule,
    /// β at t = 0, in (0, 1).
    pub beta_start: f64,
    /// β at t = T − 1, in (0, 1).
    pub beta_end: f64,
    /// Shift and scale √ᾱ so that ᾱ at the last step is exactly 0 (Lin et al. 2024, algorithm 1).
    pub rescale_betas_zero_snr: bool,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_schedule: BetaSchedule::Linear,
            beta_start: 1e-4,
            beta_end: 0.02,
            rescale_betas_zero_snr: false,
        }
    }
}

impl ScheduleConfig {
    /// The linear schedule of T steps with DDPM's `beta_start` and `beta_end` multiplied by 1000/T.
    ///
    /// It ends in noise (ᾱ about 4e-5 or less) for any T above 20. DDPM's own β would stop short of
    /// noise if T is below 1000. For T up to 20, [`build`](Self::build) fails because `beta_end` is
    /// not below 1.
    pub fn linear_scaled_to(num_train_timesteps: usize) -> Self {
        let scale = 1000.0 / num_train_timesteps as f64;
        Self {
            num_train_timesteps,
            beta_start: 1e-4 * scale,
            beta_end: 0.02 * scale,
            ..Self::default()
        }
    }

    /// Computes the tables.
    ///
    /// # Errors
    /// - If `num_train_timesteps` is 0 or above 1,000,000.
    /// - If `beta_start` or `beta_end` is NaN or outside (0, 1). The cosine schedule ignores both.
    /// - If a schedule of one step is to be rescaled to zero terminal SNR.
    ///
    /// The error names the field and its value.
    pub fn build(&self) -> Result<NoiseSchedule, ScheduleError> {
        if self.num_train_timesteps == 0 {
            return Err(ScheduleError::NoTimesteps);
        }
        if self.num_train_timesteps > MAX_TIMESTEPS {
            return Err(ScheduleError::TooManyTimesteps(self.num_train_timesteps));
        }
        if self.beta_schedule != BetaSchedule::Cosine {
            for (name, value) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
                if !(value > 0.0 && value < 1.0) {
                    return Err(ScheduleError::OutOfUnitInterval { name, value });
                }
            }
        }
        let schedule = NoiseSchedule::from_betas(self.betas())?;
        if self.rescale_betas_zero_snr {
            schedule.rescaled_to_zero_terminal_snr()
        } else {
            Ok(schedule)
        }
    }

    fn betas(&self) -> Vec<f64> {
        let n = self.num_train_timesteps;
        let (start, end) = (self.beta_start, self.beta_end);
        match self.beta_schedule {
            BetaSchedule::Linear => linspace(start, end, n).collect(),
            BetaSchedule::ScaledLinear => {
                linspace(start.sqrt(), end.sqrt(), n).map(|root| root * root).collect()
            }
            BetaSchedule::Cosine => {
                let f = |i: usize| cosine_alpha_cumprod(i as f64 / n as f64);
                (0..n).map(|i| (1.0 - f(i + 1) / f(i)).min(MAX_COSINE_BETA)).collect()
            }
            BetaSchedule::Sigmoid => {
                linspace(-6.0, 6.0, n).map(|z| (end - start) / (1.0 + (-z).exp()) + start).collect()
            }
        }
    }
}

/// The largest number of timesteps. A larger number is a mistake in the configuration.
pub(crate) const MAX_TIMESTEPS: usize = 1_000_000;

/// The largest β of the cosine schedule, which keeps its last steps from becoming singular (Nichol
/// & Dhariwal 2021, section 3.2).
const MAX_COSINE_BETA: f64 = 0.999;
/// The offset s, which keeps the first β of the cosine schedule from becoming too small.
const COSINE_OFFSET: f64 = 0.008;

/// f(u) of the cosine schedule, for u = t/T in [0, 1].
fn cosine_alpha_cumprod(u: f64) -> f64 {
    ((u + COSINE_OFFSET) / (1.0 + COSINE_OFFSET) * std::f64::consts::FRAC_PI_2).cos().powi(2)
}

/// `n` evenly spaced numbers, both ends included; `n = 1` gives the start.
pub(crate) fn linspace(start: f64, end: f64, n: usize) -> impl DoubleEndedIterator<Item = f64> {
    let step = if n > 1 { (end - start) / (n - 1) as f64 } else { 0.0 };
    (0..n).map(move |i| if i > 0 && i + 1 == n { end } else { start + i as f64 * step })
}
