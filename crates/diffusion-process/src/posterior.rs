//! One step back when x₀ is known.

use candle_core::{Result, Tensor};
use diffusion_schedule::NoiseSchedule;

/// The mean of q(x_{t−1} | x_t, x₀) at index `i` of `schedule` (Ho et al. 2020, eq. 7); `x0` and `x_t` are
/// (N, C, H, W). Its variance is [`NoiseSchedule::posterior_variance`].
///
/// # Errors
/// Shapes that differ.
pub fn posterior_mean(schedule: &NoiseSchedule, i: usize, x0: &Tensor, x_t: &Tensor) -> Result<Tensor> {
    x0.affine(schedule.posterior_mean_coef_x0(i), 0.0)?
        + x_t.affine(schedule.posterior_mean_coef_xt(i), 0.0)?
}
