//! The two numbers that place an image between data and noise, one pair an image.

use candle_core::{Result, Tensor, bail};
use diffusion_schedule::NoiseSchedule;

/// √ᾱ and √(1 − ᾱ) for each image of a batch, shaped to broadcast over (N, C, H, W).
///
/// Rounded from f64 once, here, to the float type of the images.
#[derive(Clone, Debug)]
pub struct Levels {
    signal: Tensor,
    noise: Tensor,
    min_alpha_cumprod: f64,
}

impl Levels {
    /// One index of `schedule` per image of `like` (N, C, H, W); `indices` has N entries.
    ///
    /// # Errors
    /// A count other than N; an index outside the schedule.
    pub fn at(schedule: &NoiseSchedule, indices: &[usize], like: &Tensor) -> Result<Self> {
        let alphas_cumprod = indices
            .iter()
            .map(|&i| match schedule.alphas_cumprod().get(i) {
                Some(&alpha_cumprod) => Ok(alpha_cumprod),
                None => bail!("timestep {i} is outside the schedule of {} steps", schedule.len()),
            })
            .collect::<Result<Vec<f64>>>()?;
        Self::new(&alphas_cumprod, like)
    }

    /// One ᾱ in [0, 1] per image of `like` (N, C, H, W).
    ///
    /// # Errors
    /// A count other than N; an ᾱ outside [0, 1].
    pub fn new(alphas_cumprod: &[f64], like: &Tensor) -> Result<Self> {
        let n = like.dim(0)?;
        if alphas_cumprod.len() != n {
            bail!("{} noise levels for a batch of {n} images", alphas_cumprod.len());
        }
        if let Some(bad) = alphas_cumprod.iter().find(|a| !(0.0..=1.0).contains(*a)) {
            bail!("alpha_cumprod is {bad}; it must lie in [0, 1]");
        }
        let column = |f: fn(f64) -> f64| {
            let values: Vec<f64> = alphas_cumprod.iter().map(|&a| f(a)).collect();
            let mut shape = vec![1; like.rank()];
            shape[0] = n;
            Tensor::from_vec(values, shape, like.device())?.to_dtype(like.dtype())
        };
        Ok(Self {
            signal: column(f64::sqrt)?,
            noise: column(|a| (1.0 - a).sqrt())?,
            min_alpha_cumprod: alphas_cumprod.iter().copied().fold(1.0, f64::min),
        })
    }

    /// √ᾱ, the factor of x₀: (N, 1, 1, 1).
    pub fn signal(&self) -> &Tensor {
        &self.signal
    }

    /// √(1 − ᾱ), the factor of ε: (N, 1, 1, 1).
    pub fn noise(&self) -> &Tensor {
        &self.noise
    }

    /// Whether some image of the batch has no signal left, ᾱ = 0.
    pub(crate) fn any_without_signal(&self) -> bool {
        self.min_alpha_cumprod == 0.0
    }

    /// x_t = √ᾱ·x₀ + √(1 − ᾱ)·ε (Ho et al. 2020, eq. 4). `x0` and `noise` are (N, C, H, W).
    ///
    /// # Errors
    /// Shapes that differ from each other or from these levels.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        x0.broadcast_mul(&self.signal)? + noise.broadcast_mul(&self.noise)?
    }
}
