//! The two numbers that place an image between data and noise, one pair an image.

use candle_core::{Result, Tensor, bail};
use diffusion_schedule::{NoiseLevel, NoiseSchedule};

/// The factors of x₀ and ε for each image of a batch, √ᾱ and √(1 − ᾱ) in DDPM, shaped to broadcast over (N, C, H, W).
///
/// Rounded from f64 once, here, to the float type of the images.
#[derive(Clone, Debug)]
pub struct Levels {
    each: Vec<NoiseLevel>,
    like: Tensor,
    signal: Tensor,
    noise: Tensor,
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
    /// A count other than N; a factor that is negative or not finite.
    pub fn new(levels: &[NoiseLevel], like: &Tensor) -> Result<Self> {
        let n = like.dim(0)?;
        if levels.len() != n {
            bail!("{} noise levels for a batch of {n} images", levels.len());
        }
        let valid = |factor: f64| factor >= 0.0 && factor.is_finite();
        let sound = |l: &NoiseLevel| valid(l.signal) && valid(l.noise);
        if let Some(bad) = levels.iter().find(|level| !sound(level)) {
            bail!(
                "a noise level has signal {} and noise {}; both must be finite and not negative",
                bad.signal,
                bad.noise
            );
        }
        let column = |factor: fn(&NoiseLevel) -> f64| per_image(levels.iter().map(factor), like);
        Ok(Self {
            signal: column(|level| level.signal)?,
            noise: column(|level| level.noise)?,
            each: levels.to_vec(),
            like: like.clone(),
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

    /// The level of each image.
    pub fn iter(&self) -> impl Iterator<Item = &NoiseLevel> {
        self.each.iter()
    }

    /// A number of each image's level: (N, 1, 1, 1).
    ///
    /// # Errors
    /// Those of the device.
    pub fn column(&self, number: impl Fn(&NoiseLevel) -> f64) -> Result<Tensor> {
        per_image(self.each.iter().map(number), &self.like)
    }

    /// Whether some image of the batch has no signal left.
    pub(crate) fn any_without_signal(&self) -> bool {
        self.each.iter().any(|level| level.signal == 0.0)
    }

    /// x_t = signal·x₀ + noise·ε (Ho et al. 2020, eq. 4, with √ᾱ and √(1 − ᾱ)). `x0` and `noise` are (N, C, H, W).
    ///
    /// # Errors
    /// Shapes that differ from each other or from these levels.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        x0.broadcast_mul(&self.signal)? + noise.broadcast_mul(&self.noise)?
    }
}

/// One number an image, shaped to broadcast over `like` (N, …): (N, 1, …), rounded to its float type.
///
/// # Errors
/// A count other than N; those of the device.
pub fn per_image(values: impl IntoIterator<Item = f64>, like: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; like.rank()];
    shape[0] = like.dim(0)?;
    let values: Vec<f64> = values.into_iter().collect();
    Tensor::from_vec(values, shape, like.device())?.to_dtype(like.dtype())
}
