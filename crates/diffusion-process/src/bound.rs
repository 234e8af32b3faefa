//! The formulas of the variational bound on −ln p(x₀) (Ho et al. 2020, eq. 5; Nichol & Dhariwal
//! 2021), for training and evaluation.

use std::f64::consts::{FRAC_1_SQRT_2, LN_2, PI};

use candle_core::cpu::erf::{erf_f64, erfc_f64};
use candle_core::{Result, Tensor};

/// The KL divergence of two Gaussians for each element, in nats: KL(N(mean₁, exp(log_variance₁)) ‖
/// N(mean₂, exp(log_variance₂))). The four tensors broadcast to one shape.
///
/// # Errors
/// If the shapes do not broadcast.
pub fn gaussian_kl(
    mean_1: &Tensor,
    log_variance_1: &Tensor,
    mean_2: &Tensor,
    log_variance_2: &Tensor,
) -> Result<Tensor> {
    let ratio = log_variance_1.broadcast_sub(log_variance_2)?;
    let distance =
        mean_1.broadcast_sub(mean_2)?.sqr()?.broadcast_mul(&log_variance_2.neg()?.exp()?)?;
    // ½·(ln σ₂² − ln σ₁² + σ₁²/σ₂² + (μ₁ − μ₂)²/σ₂² − 1).
    (ratio.exp()? - &ratio)?.broadcast_add(&distance)?.affine(0.5, -0.5)
}

/// The logarithm of the probability that a normal variable is in the bin of an 8-bit value, for
/// each element, in nats (Ho et al. 2020, eq. 13).
///
/// `x` has the values k/127.5 − 1 for k = 0…255. A bin is 2/255 wide; the first bin extends to −∞
/// and the last to ∞. `mean` has the shape of `x`. `log_deviation` is ln σ and broadcasts to this
/// shape.
///
/// This version is for training: it is differentiable, and a probability below 1e-12 counts as
/// 1e-12. [`discretized_log_probability`] is exact.
///
/// # Errors
/// If the shapes do not fit each other.
pub fn discretized_log_likelihood(
    x: &Tensor,
    mean: &Tensor,
    log_deviation: &Tensor,
) -> Result<Tensor> {
    let centred = (x - mean)?;
    let inverse = log_deviation.neg()?.exp()?;
    let cdf_at = |edge: f64| normal_cdf(&centred.affine(1.0, edge)?.broadcast_mul(&inverse)?);
    let (upper, lower) = (cdf_at(HALF_BIN)?, cdf_at(-HALF_BIN)?);
    let first = x.le(-1.0 + HALF_BIN)?;
    let last = x.ge(1.0 - HALF_BIN)?;
    let upper = last.where_cond(&upper.ones_like()?, &upper)?;
    let lower = first.where_cond(&lower.zeros_like()?, &lower)?;
    (upper - lower)?.maximum(MIN_PROBABILITY)?.log()
}

/// Half the distance between two neighbouring 8-bit values in [−1, 1].
const HALF_BIN: f64 = 1.0 / 255.0;

/// The smallest probability of a bin in training. It bounds the loss.
const MIN_PROBABILITY: f64 = 1e-12;

fn normal_cdf(z: &Tensor) -> Result<Tensor> {
    z.affine(FRAC_1_SQRT_2, 0.0)?.erf()?.affine(0.5, 0.5)
}

/// Bits per dimension of each image (N): `nats` (N, C, H, W), averaged over the elements of an
/// image and divided by ln 2.
///
/// # Errors
/// If `nats` is not of rank 4.
pub fn bits_per_dimension(nats: &Tensor) -> Result<Tensor> {
    nats.mean((1, 2, 3))? / LN_2
}

/// The exact logarithm of the probability that a normal variable is in the bin of the 8-bit value
/// `x`, in nats.
///
/// This is [`discretized_log_likelihood`] for one element and without its lower limit, so it is
/// finite at any distance. `deviation` must be above 0.
pub fn discretized_log_probability(x: f64, mean: f64, deviation: f64) -> f64 {
    let below =
        if x <= HALF_BIN - 1.0 { f64::NEG_INFINITY } else { (x - HALF_BIN - mean) / deviation };
    let above = if x >= 1.0 - HALF_BIN { f64::INFINITY } else { (x + HALF_BIN - mean) / deviation };
    log_normal_between(below, above)
}

/// ln(Φ(high) − Φ(low)) for low < high.
fn log_normal_between(low: f64, high: f64) -> f64 {
    if low > 0.0 {
        return log_normal_between(-high, -low);
    }
    if high <= 0.0 {
        // Both are in the lower tail, where Φ itself may underflow but its logarithm is accurate.
        let log_high = log_normal_below(high);
        return log_high + (-(log_normal_below(low) - log_high).exp_m1()).ln();
    }
    (0.5 * (erf_f64(high * FRAC_1_SQRT_2) - erf_f64(low * FRAC_1_SQRT_2))).ln()
}

/// Below this z, ln Φ is computed by its asymptotic series.
const SERIES_BELOW: f64 = -30.0;

/// ln Φ(z) for z ≤ 0.
fn log_normal_below(z: f64) -> f64 {
    if z > SERIES_BELOW {
        return (0.5 * erfc_f64(-z * FRAC_1_SQRT_2)).ln();
    }
    // Abramowitz & Stegun 26.2.12. The first omitted term is below 2e-10.
    let s = 1.0 / (z * z);
    -0.5 * z * z - 0.5 * (2.0 * PI).ln() - (-z).ln() + (s * (-1.0 + s * (3.0 - 15.0 * s))).ln_1p()
}
