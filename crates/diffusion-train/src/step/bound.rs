//! The variational bound, one term at a time, and the variance that is learned from it (Nichol & Dhariwal 2021).

use candle_core::{Result, Tensor};
use diffusion_process::{Levels, NoiseLevel, Parametrisation, PredictionType};
use diffusion_schedule::NoiseSchedule;

/// KL(N(mean₁, exp(log_variance₁)) ‖ N(mean₂, exp(log_variance₂))) of each element, in nats. All four broadcast to one
/// shape.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn gaussian_kl(
    mean_1: &Tensor,
    log_variance_1: &Tensor,
    mean_2: &Tensor,
    log_variance_2: &Tensor,
) -> Result<Tensor> {
    let ratio = log_variance_1.broadcast_sub(log_variance_2)?;
    let distance = mean_1.broadcast_sub(mean_2)?.sqr()?.broadcast_mul(&log_variance_2.neg()?.exp()?)?;
    // ½·(ln σ₂² − ln σ₁² + σ₁²/σ₂² + (μ₁ − μ₂)²/σ₂² − 1).
    (ratio.exp()? - &ratio)?.broadcast_add(&distance)?.affine(0.5, -0.5)
}

/// ln of the probability that a normal variable lies in the bin of an 8-bit value, for each element, in nats. `x` holds
/// values k/127.5 − 1 for k = 0…255; a bin is 2/255 wide, but the first reaches down and the last up to infinity (Ho et
/// al. 2020, eq. 13). `mean` has the shape of `x`, `log_deviation` is ln σ and broadcasts to it.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn discretized_log_likelihood(x: &Tensor, mean: &Tensor, log_deviation: &Tensor) -> Result<Tensor> {
    let centred = (x - mean)?;
    let inverse = log_deviation.neg()?.exp()?;
    let below = |edge: f64| normal_cdf(&centred.affine(1.0, edge)?.broadcast_mul(&inverse)?);
    let (upper, lower) = (below(HALF_BIN)?, below(-HALF_BIN)?);
    let first = x.le(-1.0 + HALF_BIN)?;
    let last = x.ge(1.0 - HALF_BIN)?;
    let upper = last.where_cond(&upper.ones_like()?, &upper)?;
    let lower = first.where_cond(&lower.zeros_like()?, &lower)?;
    (upper - lower)?.maximum(LEAST_PROBABILITY)?.log()
}

/// Half the distance of two 8-bit values in [−1, 1].
const HALF_BIN: f64 = 1.0 / 255.0;

/// A bin that a model takes for impossible costs no more than this.
const LEAST_PROBABILITY: f64 = 1e-12;

fn normal_cdf(z: &Tensor) -> Result<Tensor> {
    z.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()?.affine(0.5, 0.5)
}

/// A model's reverse steps, as the bound sees them.
#[derive(Clone, Debug)]
pub struct ReverseStep<'a> {
    /// What the network was trained on.
    pub schedule: &'a NoiseSchedule,
    /// What the mean half of its output means.
    pub prediction_type: PredictionType,
    /// The mean half of its output (N, C, H, W).
    pub output: &'a Tensor,
    /// The variance half, from −1 for the posterior's log-variance to 1 for ln β (eq. 15): (N, C, H, W).
    pub variance: &'a Tensor,
}

impl ReverseStep<'_> {
    /// The bound's term of each image at its timestep, in bits a dimension (N): KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t))
    /// for t > 0 and −ln p(x₀ | x₁) for t = 0 (eq. 4 to 6), averaged over pixels and divided by ln 2.
    ///
    /// No gradient flows into the mean: it learns from the simple loss alone (section 3.1).
    ///
    /// # Errors
    /// Shapes that differ; an ε prediction at a level without signal.
    pub fn bits(&self, x0: &Tensor, x_t: &Tensor, levels: &[NoiseLevel]) -> Result<Tensor> {
        let Self { schedule, prediction_type, output, variance } = *self;
        let column = |of: &dyn Fn(usize) -> f64| {
            let values: Vec<f64> = levels.iter().map(|level| of(level.timestep as usize)).collect();
            Tensor::from_vec(values, (levels.len(), 1, 1, 1), x0.device())?.to_dtype(x0.dtype())
        };
        let factors = Levels::new(levels, x0)?;
        let said_x0 =
            Parametrisation::from(prediction_type).to_prediction(&output.detach(), x_t, &factors)?.x0;
        let from_x0 = column(&|t| schedule.posterior_mean_coef_x0(t))?;
        let from_x_t = x_t.broadcast_mul(&column(&|t| schedule.posterior_mean_coef_xt(t))?)?;
        let mean = |x0: &Tensor| x0.broadcast_mul(&from_x0)? + &from_x_t;

        let low = column(&|t| schedule.posterior_log_variance_clipped(t))?;
        let high = column(&|t| schedule.betas()[t].ln())?;
        let (middle, reach) = (((&high + &low)? * 0.5)?, ((&high - &low)? * 0.5)?);
        let log_variance = variance.broadcast_mul(&reach)?.broadcast_add(&middle)?;

        let said_mean = mean(&said_x0)?;
        let kl = gaussian_kl(&mean(x0)?, &low, &said_mean, &log_variance)?;
        let decoder = discretized_log_likelihood(x0, &said_mean, &(&log_variance * 0.5)?)?.neg()?;
        let at_zero = column(&|t| f64::from(u8::from(t == 0)))?;
        let term = (decoder.broadcast_mul(&at_zero)? + kl.broadcast_mul(&at_zero.affine(-1.0, 1.0)?)?)?;
        term.mean((1, 2, 3))? / std::f64::consts::LN_2
    }
}
