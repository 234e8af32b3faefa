//! The variational bound on −ln p(x₀) of given images, term by term (Ho et al. 2020, eq. 5; Nichol
//! & Dhariwal 2021).

use candle_core::{DType, Device, Result, Tensor, bail};
use diffusion_process::{bits_per_dimension, discretized_log_probability, gaussian_kl};
use diffusion_schedule::{NoiseSchedule, VarianceType};

/// The variational bound −ln p(x₀) ≤ L_T + Σ L_{t−1} + L_0 for images with 256 brightness levels in
/// \[−1, 1\].
///
/// The reverse process takes all steps of a schedule. Its means are μ̃(x_t, x̂₀), with x̂₀ clipped
/// to \[−1, 1\] as samplers do. All terms are in bits per dimension: nats, averaged over the
/// elements of an image and divided by ln 2. They are computed in f64.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use diffusion_eval::VariationalBound;
/// use diffusion_schedule::{ScheduleConfig, VarianceType};
///
/// let schedule = ScheduleConfig::default().build()?;
/// let bound = VariationalBound::new(&schedule, VarianceType::FixedSmall);
/// let x0 = Tensor::new(&[[[[-1f32, 0.0, 1.0]]]], &Device::Cpu)?;
/// assert!(bound.prior(&x0)?[0] < 1e-4);
/// assert_eq!(bound.term(500, &x0, &x0, None)?, [0.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct VariationalBound<'a> {
    schedule: &'a NoiseSchedule,
    variance: VarianceType,
}

impl<'a> VariationalBound<'a> {
    /// The bound for `schedule`, with the variance type `variance` in each step.
    pub fn new(schedule: &'a NoiseSchedule, variance: VarianceType) -> Self {
        Self { schedule, variance }
    }

    /// The schedule.
    pub fn schedule(&self) -> &'a NoiseSchedule {
        self.schedule
    }

    /// L_T = KL(q(x_T | x₀) ‖ N(0, I)) of each image of `x0` (N, C, H, W). It does not depend on
    /// the model.
    ///
    /// # Errors
    /// An error of the device.
    pub fn prior(&self, x0: &Tensor) -> Result<Vec<f64>> {
        let signal = self.schedule.alphas_cumprod()[self.schedule.len() - 1];
        let mean = (in_f64(x0)? * signal.sqrt())?;
        bits(&gaussian_kl(&mean, &number((1.0 - signal).ln())?, &number(0.0)?, &number(0.0)?)?)
    }

    /// The term of the step from index `t`, for each image of `x0` (N, C, H, W).
    ///
    /// For t > 0 it is KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t)), for t = 0 the decoder's
    /// −ln p(x₀ | x₁) (eq. 13). x_t itself cancels out. `predicted_x0` is the model's prediction of
    /// `x0`. `predicted_variance` is its learned variance, from −1 for β̃ to 1 for β. Both have the
    /// shape of `x0`.
    ///
    /// # Errors
    /// If the variance type is learned and `predicted_variance` is `None`. If the shapes differ.
    ///
    /// # Panics
    /// Panics if `t` is outside the schedule.
    pub fn term(
        &self,
        t: usize,
        x0: &Tensor,
        predicted_x0: &Tensor,
        predicted_variance: Option<&Tensor>,
    ) -> Result<Vec<f64>> {
        let (x0, predicted_x0) = (in_f64(x0)?, in_f64(predicted_x0)?.clamp(-1.0, 1.0)?);
        let low = self.schedule.posterior_log_variance_clipped(t);
        let high = self.schedule.betas()[t].ln();
        let log_variance = match (self.variance, predicted_variance) {
            (VarianceType::LearnedRange, Some(variance)) => {
                in_f64(variance)?.affine((high - low) / 2.0, f64::midpoint(low, high))?
            }
            (VarianceType::LearnedRange, None) => {
                bail!("variance learned_range: the network has not learned a variance")
            }
            (VarianceType::FixedLarge, _) if t > 0 => number(high)?,
            // The variance of the decoder is always β̃, as in the authors' code.
            _ => number(low)?,
        };
        if t == 0 {
            // The mean of the last step is x̂₀ itself.
            return bits(&decoder(&x0, &predicted_x0, &log_variance)?);
        }
        let coefficient = self.schedule.posterior(t).coef_x0;
        let (mean, predicted_mean) = ((x0 * coefficient)?, (predicted_x0 * coefficient)?);
        bits(&gaussian_kl(&mean, &number(low)?, &predicted_mean, &log_variance)?)
    }

    /// The term of index `t` for a perfect model and Gaussian data of standard deviation ½, up to a
    /// constant factor. The bound needs dense sampling at levels where it is large.
    pub(crate) fn expected_weight(&self, t: usize) -> f64 {
        let (signal, data) = (self.schedule.alphas_cumprod()[t], 0.25);
        let error = data * (1.0 - signal) / (signal * data + 1.0 - signal);
        let log_variance = self.schedule.posterior_log_variance_clipped(t);
        self.schedule.posterior(t).coef_x0.powi(2) * error * (-log_variance).exp()
    }
}

/// −ln p(x₀ | x₁) of each element, in nats.
fn decoder(x0: &Tensor, mean: &Tensor, log_variance: &Tensor) -> Result<Tensor> {
    let elements =
        |tensor: &Tensor| tensor.broadcast_as(x0.shape())?.flatten_all()?.to_vec1::<f64>();
    let parameters = elements(mean)?.into_iter().zip(elements(log_variance)?);
    let nats = elements(x0)?.into_iter().zip(parameters).map(|(x0, (mean, log_variance))| {
        -discretized_log_probability(x0, mean, (log_variance / 2.0).exp())
    });
    Tensor::from_vec(nats.collect(), x0.shape(), x0.device())
}

/// The tensor in f64 on the CPU, because not every device supports f64.
fn in_f64(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)
}

/// A tensor (1, 1, 1, 1) that broadcasts to all elements.
fn number(value: f64) -> Result<Tensor> {
    Tensor::full(value, (1, 1, 1, 1), &Device::Cpu)
}

fn bits(nats: &Tensor) -> Result<Vec<f64>> {
    bits_per_dimension(nats)?.to_vec1()
}
