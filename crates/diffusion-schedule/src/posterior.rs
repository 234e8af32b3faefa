//! The reverse step of DDPM: the posterior of the forward process, and the choices of variance.

use serde::{Deserialize, Serialize};

use crate::names::names;
use crate::{NoiseLevel, NoiseSchedule};

/// The posterior of the forward process between two variance-preserving noise levels:
/// q(x_prev | x_t, x₀) = N(coef_x0·x₀ + coef_xt·x_t, variance·I) (Ho et al. 2020, eq. 7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// The factor of x₀: √ᾱ_prev·β/(1 − ᾱ_t).
    pub coef_x0: f64,
    /// The factor of x_t: √α·(1 − ᾱ_prev)/(1 − ᾱ_t).
    pub coef_xt: f64,
    /// The posterior's variance: β̃ = β·(1 − ᾱ_prev)/(1 − ᾱ_t).
    pub variance: f64,
    /// The variance of the forward step: β = 1 − α, with α = ᾱ_t/ᾱ_prev.
    pub beta: f64,
}

impl Posterior {
    /// The posterior of the step from `from` to `to`, which must be less noisy.
    pub fn between(from: &NoiseLevel, to: &NoiseLevel) -> Self {
        let alpha = from.alpha_cumprod() / to.alpha_cumprod();
        Self::new([alpha, 1.0 - alpha], from.noise * from.noise, to.signal, to.noise * to.noise)
    }

    /// The posterior of the step from index `i` of `schedule`, computed from its tables. `i` must
    /// be below the schedule's length.
    pub(crate) fn at(schedule: &NoiseSchedule, i: usize) -> Self {
        let (beta, prev) = (schedule.betas()[i], schedule.alpha_cumprod_prev(i));
        Self::new([1.0 - beta, beta], 1.0 - schedule.alphas_cumprod()[i], prev.sqrt(), 1.0 - prev)
    }

    /// `noise` is 1 − ᾱ_t, `signal_prev` is √ᾱ_prev, and `noise_prev` is 1 − ᾱ_prev.
    fn new([alpha, beta]: [f64; 2], noise: f64, signal_prev: f64, noise_prev: f64) -> Self {
        Self {
            coef_x0: signal_prev * beta / noise,
            coef_xt: alpha.sqrt() * noise_prev / noise,
            variance: beta * noise_prev / noise,
            beta,
        }
    }
}

/// The variance of the model's reverse step p(x_prev | x_t).
///
/// Both fixed variances are valid choices (Ho et al. 2020, section 3.2). Their difference vanishes
/// as the number of steps grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceType {
    /// β̃, the variance of the posterior. Exact for data at a single point; the better choice for
    /// few steps.
    #[default]
    FixedSmall,
    /// β, the variance of the forward step. Exact for standard normal data; the choice in algorithm
    /// 2 of Ho et al. 2020.
    FixedLarge,
    /// A value between the two, predicted by the network for each pixel (Nichol & Dhariwal 2021,
    /// eq. 15).
    LearnedRange,
}

names!(VarianceType {
    FixedSmall => "fixed-small",
    FixedLarge => "fixed-large",
    LearnedRange => "learned-range",
});
