//! The term of the variational bound that trains a learned variance (Nichol & Dhariwal 2021).

use candle_core::{Result, Tensor};
use diffusion_process::{
    Levels, NoiseLevel, Parametrisation, PredictionType, bits_per_dimension,
    discretized_log_likelihood, gaussian_kl, per_image,
};
use diffusion_schedule::NoiseSchedule;

/// A network's output for one reverse step per image.
#[derive(Clone, Debug)]
pub struct ReverseStep<'a> {
    /// The noise schedule of the training.
    pub schedule: &'a NoiseSchedule,
    /// The quantity that the first half of the output predicts.
    pub prediction_type: PredictionType,
    /// The first half of the output, (N, C, H, W).
    pub output: &'a Tensor,
    /// The second half, (N, C, H, W): the log-variance, scaled so that −1 means the posterior's and
    /// 1 means ln β (eq. 15).
    pub variance: &'a Tensor,
}

impl ReverseStep<'_> {
    /// The bound's term of each image at its timestep, in bits per dimension, (N).
    ///
    /// The term is KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t)) for t > 0 and −ln p(x₀ | x₁) for t =
    /// 0 (eq. 4 to 6), averaged over pixels and divided by ln 2. No gradient flows into the mean,
    /// which learns from the simple loss only (section 3.1).
    ///
    /// # Errors
    /// If the shapes differ; if ε is predicted at a level without signal.
    pub fn bits(&self, x0: &Tensor, x_t: &Tensor, levels: &[NoiseLevel]) -> Result<Tensor> {
        let Self { schedule, prediction_type, output, variance } = *self;
        let column = |of: &dyn Fn(usize) -> f64| {
            per_image(levels.iter().map(|level| of(level.timestep as usize)), x0)
        };
        let factors = Levels::new(levels, x0)?;
        let parametrisation = Parametrisation::from(prediction_type);
        let predicted_x0 = parametrisation.to_prediction(&output.detach(), x_t, &factors)?.x0;
        let from_x0 = column(&|t| schedule.posterior(t).coef_x0)?;
        let from_x_t = x_t.broadcast_mul(&column(&|t| schedule.posterior(t).coef_xt)?)?;
        let mean = |x0: &Tensor| x0.broadcast_mul(&from_x0)? + &from_x_t;

        let low = column(&|t| schedule.posterior_log_variance_clipped(t))?;
        let high = column(&|t| schedule.betas()[t].ln())?;
        let (centre, half_range) = (((&high + &low)? * 0.5)?, ((&high - &low)? * 0.5)?);
        let log_variance = variance.broadcast_mul(&half_range)?.broadcast_add(&centre)?;

        let predicted_mean = mean(&predicted_x0)?;
        let kl = gaussian_kl(&mean(x0)?, &low, &predicted_mean, &log_variance)?;
        let decoder =
            discretized_log_likelihood(x0, &predicted_mean, &(&log_variance * 0.5)?)?.neg()?;
        let at_zero = column(&|t| f64::from(u8::from(t == 0)))?;
        let term =
            (decoder.broadcast_mul(&at_zero)? + kl.broadcast_mul(&at_zero.affine(-1.0, 1.0)?)?)?;
        bits_per_dimension(&term)
    }
}
