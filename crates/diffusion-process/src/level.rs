//! The two numbers that place an image between data and noise, one pair an image.

use candle_core::{Result, Tensor, bail};
use diffusion_schedule::{NoiseLevel, NoiseSchedule};

/// The factors of x₀ and ε for each image of a batch, √ᾱ and √(1 − ᾱ) in DDPM, shaped to broadcast over (N, C, H, W).
///
/// Rounded from f64 once, here, to the float type of the images.
#[derive(Clone, Debug)]
pub struct Levels {
    signal: Tensor,
    noise: Tensor,
    least_signal: f64,
}

impl Levels {
    /// One index of `schedule` per image of `like` (N, C, H, W); `indices` has N entries.
    ///
    /// # Errors
    /// A count other than N; an index outside the schedule.
    pub fn at(schedule: &NoiseSchedule, indices: &[usize], like: &Tensor) -> Result<Self> {
        if let Some(outside) = indices.iter().find(|&&i| i >= schedule.len()) {
            bail!("timestep {outside} is outside the schedule of {} steps", schedule.len());
        }
        Self::new(&indices.iter().map(|&i| schedule.level(i)).collect::<Vec<_>>(), like)
    }

    /// One level per image of `like` (N, C, H, W).
    ///
    /// # Errors
    /// A count other than N; a signal outside [0, 1]; noise that is negative or not a number.
    pub fn new(levels: &[NoiseLevel], like: &Tensor) -> Result<Self> {
        let n = like.dim(0)?;
        if levels.len() != n {
            bail!("{} noise levels for a batch of {n} images", levels.len());
        }
        let sound = |l: &NoiseLevel| (0.0..=1.0).contains(&l.signal) && l.noise >= 0.0 && l.noise.is_finite();
        if let Some(bad) = levels.iter().find(|level| !sound(level)) {
            bail!(
                "a level of signal {} and noise {}; signal must lie in [0, 1], noise must not be negative",
                bad.signal,
                bad.noise
            );
        }
        let column = |f: fn(&NoiseLevel) -> f64| {
            let values: Vec<f64> = levels.iter().map(f).collect();
            let mut shape = vec![1; like.rank()];
            shape[0] = n;
            Tensor::from_vec(values, shape, like.device())?.to_dtype(like.dtype())
        };
        Ok(Self {
            signal: column(|level| level.signal)?,
            noise: column(|level| level.noise)?,
            least_signal: levels.iter().map(|level| level.signal).fold(1.0, f64::min),
        })
    }

    /// The factor of x₀: (N, 1, 1, 1).
    pub fn signal(&self) -> &Tensor {
        &self.signal
    }

    /// The factor of ε: (N, 1, 1, 1).
    pub fn noise(&self) -> &Tensor {
        &self.noise
    }

    /// Whether some image of the batch has no signal left.
    pub(crate) fn any_without_signal(&self) -> bool {
        self.least_signal == 0.0
    }

    /// x_t = signal·x₀ + noise·ε (Ho et al. 2020, eq. 4, with √ᾱ and √(1 − ᾱ)). `x0` and `noise` are (N, C, H, W).
    ///
    /// # Errors
    /// Shapes that differ from each other or from these levels.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        x0.broadcast_mul(&self.signal)? + noise.broadcast_mul(&self.noise)?
    }
}
