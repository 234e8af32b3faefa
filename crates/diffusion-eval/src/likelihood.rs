//! The variational bound on −ln p(x₀), term by term (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021).

use std::f64::consts::{FRAC_1_SQRT_2, LN_2, PI};

use candle_core::cpu::erf::{erf_f64, erfc_f64};
use candle_core::{Result, bail};
use diffusion_schedule::NoiseSchedule;

/// The variance of p(x_{t−1} | x_t). The fixed ones are both valid choices (Ho et al. 2020, section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReverseVariance {
    /// β̃, that of q(x_{t−1} | x_t, x₀).
    #[default]
    FixedSmall,
    /// β, that of the step forward; the decoder's is that of [`FixedSmall`](Self::FixedSmall) here too, as in the authors' code.
    FixedLarge,
    /// Between the two, as the model says for each pixel (Nichol & Dhariwal 2021, eq. 15).
    LearnedRange,
}

/// −ln p(x₀) ≤ L_T + Σ L_{t−1} + L_0, of images with 256 grey levels in \[−1, 1\] and a reverse process along all steps of a
/// schedule whose means are μ̃(x_t, x̂₀), x̂₀ cut to \[−1, 1\] as samplers cut it.
///
/// All terms are in bits a dimension: nats, averaged over an image's numbers and divided by ln 2.
///
/// ```
/// use diffusion_eval::{ReverseVariance, VariationalBound};
/// use diffusion_schedule::ScheduleConfig;
///
/// let schedule = ScheduleConfig::default().build()?;
/// let bound = VariationalBound::new(&schedule, ReverseVariance::FixedSmall);
/// let x0 = [-1.0, 0.0, 1.0];
/// assert!(bound.prior(&x0) < 1e-4);
/// assert_eq!(bound.term(500, &x0, &x0, None)?, 0.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct VariationalBound<'a> {
    schedule: &'a NoiseSchedule,
    variance: ReverseVariance,
}

impl<'a> VariationalBound<'a> {
    /// Along `schedule`, with `variance` in each step.
    pub fn new(schedule: &'a NoiseSchedule, variance: ReverseVariance) -> Self {
        Self { schedule, variance }
    }

    /// The schedule.
    pub fn schedule(&self) -> &'a NoiseSchedule {
        self.schedule
    }

    /// L_T = KL(q(x_T | x₀) ‖ N(0, I)), which no model changes, for an image's numbers `x0`.
    pub fn prior(&self, x0: &[f32]) -> f64 {
        let signal = self.schedule.alphas_cumprod()[self.schedule.len() - 1];
        let noise = 1.0 - signal;
        let kl = |x: f64| 0.5 * (noise + signal * x * x - 1.0 - noise.ln());
        mean(x0.iter().map(|&x| kl(x.into()))) / LN_2
    }

    /// The term of the step from index `t`: KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t)) for t > 0, and for t = 0 the decoder's
    /// −ln p(x₀ | x₁) (eq. 13). x_t itself cancels out. `x0` and `said_x0` are an image's numbers and the model's estimate of them,
    /// `said_variance` where it has learned one, from −1 to 1.
    ///
    /// # Errors
    /// No learned variance where one is needed.
    ///
    /// # Panics
    /// `t` outside the schedule.
    pub fn term(&self, t: usize, x0: &[f32], said_x0: &[f32], said_variance: Option<&[f32]>) -> Result<f64> {
        let low = self.schedule.posterior_log_variance_clipped(t);
        let high = self.schedule.betas()[t].ln();
        let fixed = if self.variance == ReverseVariance::FixedLarge && t > 0 { high } else { low };
        let learned = match (self.variance, said_variance) {
            (ReverseVariance::LearnedRange, None) => {
                bail!("a learned variance was asked of a network that has not learned one")
            }
            (ReverseVariance::LearnedRange, said) => said,
            _ => None,
        };
        let log_variance = |i: usize| {
            learned.map_or(fixed, |said| f64::midpoint(low, high) + f64::from(said[i]) * (high - low) / 2.0)
        };
        let coefficient = self.schedule.posterior_mean_coef_x0(t);
        let of_number = |(i, (&x, &said)): (usize, (&f32, &f32))| {
            let (x, said, log_variance) = (f64::from(x), f64::from(said).clamp(-1.0, 1.0), log_variance(i));
            if t == 0 {
                // The mean of the last step is x̂₀ itself.
                return -grey_log_probability(x, said, (log_variance / 2.0).exp());
            }
            let ratio = low - log_variance;
            let distance = (coefficient * (x - said)).powi(2) * (-log_variance).exp();
            0.5 * (ratio.exp_m1() - ratio + distance)
        };
        Ok(mean(x0.iter().zip(said_x0).enumerate().map(of_number)) / LN_2)
    }

    /// What the term of index `t` would be for Gaussian data of deviation ½ that the model knows, but for a constant factor: where
    /// the bound is to be looked at closely.
    pub(crate) fn expected_weight(&self, t: usize) -> f64 {
        let (signal, data) = (self.schedule.alphas_cumprod()[t], 0.25);
        let error = data * (1.0 - signal) / (signal * data + 1.0 - signal);
        let log_variance = self.schedule.posterior_log_variance_clipped(t);
        self.schedule.posterior_mean_coef_x0(t).powi(2) * error * (-log_variance).exp()
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// Half the distance of two of 256 grey levels in [−1, 1].
const HALF_BIN: f64 = 1.0 / 255.0;

/// ln of the probability that a normal variable of `mean` and `deviation` (above 0) lies in the bin of the grey level `x`, one of
/// k/127.5 − 1 for k = 0…255, in nats. A bin is 2/255 wide, but the first reaches down and the last up to infinity (Ho et al.
/// 2020, eq. 13). Finite however far the mean is, without the floor of 1e-12 that other code gives the probability.
pub fn grey_log_probability(x: f64, mean: f64, deviation: f64) -> f64 {
    let below = if x <= HALF_BIN - 1.0 { f64::NEG_INFINITY } else { (x - HALF_BIN - mean) / deviation };
    let above = if x >= 1.0 - HALF_BIN { f64::INFINITY } else { (x + HALF_BIN - mean) / deviation };
    log_normal_between(below, above)
}

/// ln(Φ(high) − Φ(low)), low < high.
fn log_normal_between(low: f64, high: f64) -> f64 {
    if low > 0.0 {
        return log_normal_between(-high, -low);
    }
    if high <= 0.0 {
        // Both in the lower tail, where the logarithms are exact and Φ may be too small to exist.
        let log_high = log_normal_below(high);
        return log_high + (-(log_normal_below(low) - log_high).exp_m1()).ln();
    }
    (0.5 * (erf_f64(high * FRAC_1_SQRT_2) - erf_f64(low * FRAC_1_SQRT_2))).ln()
}

/// Below this, ln Φ is its series.
const FAR: f64 = -30.0;

/// ln Φ(z) for z ≤ 0.
fn log_normal_below(z: f64) -> f64 {
    if z > FAR {
        return (0.5 * erfc_f64(-z * FRAC_1_SQRT_2)).ln();
    }
    // Abramowitz & Stegun 26.2.12; the first term left out is below 2e-10.
    let s = 1.0 / (z * z);
    -0.5 * z * z - 0.5 * (2.0 * PI).ln() - (-z).ln() + (s * (-1.0 + s * (3.0 - 15.0 * s))).ln_1p()
}
