//! The tables of a noise schedule, and the values derived from them.

use crate::{NoiseLevel, Posterior, ScheduleError, TimestepSpacing};

/// The tables of a forward process with [`len`](Self::len) steps. Indices count from 0; a larger
/// index is noisier.
///
/// A respaced schedule has the same type. Its index i stands for the training timestep
/// [`timestep(i)`](Self::timestep), which the network receives.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    betas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
    timesteps: Vec<usize>,
}

impl NoiseSchedule {
    /// Computes the tables from a table of β.
    ///
    /// # Errors
    /// - If the table is empty.
    /// - If a β is NaN or outside (0, 1). The error gives its index and value.
    pub fn from_betas(betas: Vec<f64>) -> Result<Self, ScheduleError> {
        if betas.is_empty() {
            return Err(ScheduleError::NoTimesteps);
        }
        if let Some((timestep, &value)) =
            betas.iter().enumerate().find(|(_, b)| !(**b > 0.0 && **b < 1.0))
        {
            return Err(ScheduleError::Beta { timestep, value });
        }
        Ok(Self::unchecked(betas))
    }

    fn unchecked(betas: Vec<f64>) -> Self {
        let alphas_cumprod = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        let timesteps = (0..betas.len()).collect();
        Self { betas, alphas_cumprod, timesteps }
    }

    /// Shifts and scales √ᾱ so that the last ᾱ becomes 0 and the first stays the same (Lin et al.
    /// 2024, algorithm 1).
    ///
    /// The last β becomes 1, the only case in which a β is outside (0, 1). A network that predicts
    /// ε learns nothing at such a step.
    ///
    /// # Errors
    /// If the schedule has one step only.
    pub fn rescaled_to_zero_terminal_snr(&self) -> Result<Self, ScheduleError> {
        if self.len() < 2 {
            return Err(ScheduleError::ZeroSnrNeedsTwoSteps);
        }
        let roots: Vec<f64> = self.alphas_cumprod.iter().map(|a| a.sqrt()).collect();
        let (first, last) = (roots[0], roots[roots.len() - 1]);
        let rescaled: Vec<f64> = roots
            .iter()
            .map(|root| (root - last) * first / (first - last))
            .map(|root| root * root)
            .collect();
        let betas = (0..rescaled.len())
            .map(|i| 1.0 - if i == 0 { rescaled[0] } else { rescaled[i] / rescaled[i - 1] })
            .collect();
        Ok(Self { timesteps: self.timesteps.clone(), ..Self::unchecked(betas) })
    }

    /// A schedule of `num_inference_steps` steps, which `spacing` selects from this one.
    ///
    /// # Errors
    /// If `num_inference_steps` is 0 or larger than the length of this schedule.
    pub fn respace(
        &self,
        num_inference_steps: usize,
        spacing: TimestepSpacing,
    ) -> Result<Self, ScheduleError> {
        self.respace_to(&spacing.timesteps(self.len(), num_inference_steps)?)
    }

    /// A schedule of the given steps of this one, smallest index first.
    ///
    /// ᾱ is taken from this schedule; β follows as 1 − ᾱ_i/ᾱ_{i−1} (Nichol & Dhariwal 2021, section
    /// 4).
    ///
    /// # Errors
    /// - If the list is empty.
    /// - If the timesteps do not increase or are outside this schedule.
    pub fn respace_to(&self, timesteps: &[usize]) -> Result<Self, ScheduleError> {
        if timesteps.is_empty() {
            return Err(ScheduleError::InferenceSteps { requested: 0, available: self.len() });
        }
        for (position, &timestep) in timesteps.iter().enumerate() {
            if timestep >= self.len() || (position > 0 && timestep <= timesteps[position - 1]) {
                return Err(ScheduleError::Timesteps { position, timestep, available: self.len() });
            }
        }
        let alphas_cumprod: Vec<f64> = timesteps.iter().map(|&t| self.alphas_cumprod[t]).collect();
        let betas = (0..alphas_cumprod.len())
            .map(|i| {
                1.0 - if i == 0 {
                    alphas_cumprod[0]
                } else {
                    alphas_cumprod[i] / alphas_cumprod[i - 1]
                }
            })
            .collect();
        let timesteps = timesteps.iter().map(|&t| self.timesteps[t]).collect();
        Ok(Self { betas, alphas_cumprod, timesteps })
    }

    /// The number of steps.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.betas.len()
    }

    /// The training timestep that index `i` stands for.
    ///
    /// # Panics
    /// If `i` is outside the schedule.
    pub fn timestep(&self, i: usize) -> usize {
        self.timesteps[i]
    }

    /// β, the variance of the noise added at each step.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// ᾱ, the running product of α = 1 − β: the share of the image's variance that remains.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// ᾱ of the index before `i`; 1 for index 0.
    pub(crate) fn alpha_cumprod_prev(&self, i: usize) -> f64 {
        if i == 0 { 1.0 } else { self.alphas_cumprod[i - 1] }
    }

    /// The noise level of index `i`.
    ///
    /// # Panics
    /// If `i` is outside the schedule.
    pub fn level(&self, i: usize) -> NoiseLevel {
        NoiseLevel::variance_preserving(self.timesteps[i] as f64, self.alphas_cumprod[i])
    }

    /// The noise level with the given σ. Its timestep is interpolated linearly in ln σ between the
    /// two neighbouring levels. Outside the range of the schedule it is the timestep of the nearest
    /// end.
    pub(crate) fn level_at_sigma(&self, sigma: f64) -> NoiseLevel {
        let log = |i: usize| self.level(i).sigma().ln();
        let above = (0..self.len()).position(|i| log(i) >= sigma.ln());
        let index = match above {
            Some(0) => 0.0,
            Some(i) => {
                let (low, high) = (log(i - 1), log(i));
                let share = if high.is_finite() { (sigma.ln() - low) / (high - low) } else { 0.0 };
                (i - 1) as f64 + share
            }
            None => (self.len() - 1) as f64,
        };
        let (below, share) = (index.floor() as usize, index.fract());
        let next = (below + 1).min(self.len() - 1);
        let timestep =
            self.timesteps[below] as f64 * (1.0 - share) + self.timesteps[next] as f64 * share;
        NoiseLevel::variance_preserving(timestep, 1.0 / (1.0 + sigma * sigma))
    }

    /// The signal-to-noise ratio of index `i`: ᾱ/(1 − ᾱ).
    ///
    /// # Panics
    /// If `i` is outside the schedule.
    pub fn snr(&self, i: usize) -> f64 {
        self.alphas_cumprod[i] / (1.0 - self.alphas_cumprod[i])
    }

    /// The signal-to-noise ratio of index `i` in decibels: 10·log₁₀(SNR); −∞ if ᾱ is 0.
    ///
    /// # Panics
    /// If `i` is outside the schedule.
    pub fn snr_db(&self, i: usize) -> f64 {
        10.0 * self.snr(i).log10()
    }

    /// [`snr_db`](Self::snr_db) of the last step: the signal that remains where sampling starts
    /// from pure noise.
    pub fn terminal_snr_db(&self) -> f64 {
        self.snr_db(self.len() - 1)
    }

    /// The first index with more noise than signal; `None` if there is none.
    pub fn first_below_0_db(&self) -> Option<usize> {
        (0..self.len()).find(|&i| self.snr_db(i) < 0.0)
    }

    /// The posterior q(x_{t−1} | x_t, x₀) of the step from index `i` to the index before it (Ho et
    /// al. 2020, eq. 7). Its variance is 0 at index 0.
    ///
    /// # Panics
    /// If `i` is outside the schedule.
    pub fn posterior(&self, i: usize) -> Posterior {
        Posterior::at(self, i)
    }

    /// ln β̃ of index `i`. At index 0, where it would be −∞, the value of index 1 is used, as in
    /// improved-diffusion. A schedule of one step gives ln β.
    ///
    /// # Panics
    /// If `i` is outside the schedule.
    pub fn posterior_log_variance_clipped(&self, i: usize) -> f64 {
        if self.len() == 1 { self.betas[0].ln() } else { self.posterior(i.max(1)).variance.ln() }
    }
}
