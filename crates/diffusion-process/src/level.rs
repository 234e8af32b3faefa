//! Noise levels of a batch as tensors.

use candle_core::{Result, Tensor, bail};
use diffusion_schedule::{NoiseLevel, NoiseSchedule};

/// The factors of x₀ and ε for each image of a batch (in DDPM √ᾱ and √(1 − ᾱ)), shaped to broadcast
/// over (N, C, H, W).
///
/// They are rounded once, here, from f64 to the float type of the images.
#[derive(Clone, Debug)]
pub struct Levels {
    per_image: Vec<NoiseLevel>,
    like: Tensor,
    signal: Tensor,
    noise: Tensor,
}

impl Levels {
    /// The levels at N `indices` of `schedule`, one per image of `like` (N, C, H, W).
    ///
    /// # Errors
    /// - If the number of indices is not N.
    /// - If an index is outside the schedule.
    pub fn at(schedule: &NoiseSchedule, indices: &[usize], like: &Tensor) -> Result<Self> {
        if let Some(outside) = indices.iter().find(|&&i| i >= schedule.len()) {
            bail!("timestep {outside} is outside the schedule of {} steps", schedule.len());
        }
        Self::new(&indices.iter().map(|&i| schedule.level(i)).collect::<Vec<_>>(), like)
    }

    /// The given levels, one per image of `like` (N, C, H, W).
    ///
    /// # Errors
    /// - If the number of levels is not N.
    /// - If a factor is negative or not finite.
    pub fn new(levels: &[NoiseLevel], like: &Tensor) -> Result<Self> {
        let n = like.dim(0)?;
        if levels.len() != n {
            bail!(
                "got {} noise levels for a batch of {n} images; expected one per image",
                levels.len()
            );
        }
        let in_range = |factor: f64| factor >= 0.0 && factor.is_finite();
        let is_valid = |l: &NoiseLevel| in_range(l.signal) && in_range(l.noise);
        if let Some(invalid) = levels.iter().find(|level| !is_valid(level)) {
            bail!(
                "a noise level has signal {} and noise {}; both must be finite and not negative",
                invalid.signal,
                invalid.noise
            );
        }
        let column = |factor: fn(&NoiseLevel) -> f64| per_image(levels.iter().map(factor), like);
        Ok(Self {
            signal: column(|level| level.signal)?,
            noise: column(|level| level.noise)?,
            per_image: levels.to_vec(),
            like: like.clone(),
        })
    }

    /// The factors of x₀: (N, 1, 1, 1).
    pub fn signal(&self) -> &Tensor {
        &self.signal
    }

    /// The factors of ε: (N, 1, 1, 1).
    pub fn noise(&self) -> &Tensor {
        &self.noise
    }

    /// The level of each image.
    pub fn iter(&self) -> impl Iterator<Item = &NoiseLevel> {
        self.per_image.iter()
    }

    /// A value computed from the level of each image: (N, 1, 1, 1).
    ///
    /// # Errors
    /// An error of the device.
    pub fn column(&self, number: impl Fn(&NoiseLevel) -> f64) -> Result<Tensor> {
        per_image(self.per_image.iter().map(number), &self.like)
    }

    /// Whether any image of the batch has no signal.
    pub(crate) fn any_without_signal(&self) -> bool {
        self.per_image.iter().any(|level| level.signal == 0.0)
    }

    /// Adds noise to images: x_t = signal·x₀ + noise·ε (Ho et al. 2020, eq. 4, where the factors
    /// are √ᾱ and √(1 − ᾱ)). `x0` and `noise` are (N, C, H, W).
    ///
    /// # Errors
    /// If the shapes of `x0` and `noise` differ, or do not fit the number of levels.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        x0.broadcast_mul(&self.signal)? + noise.broadcast_mul(&self.noise)?
    }
}

/// One value per image, shaped (N, 1, …) to broadcast over `like` (N, …), and rounded to its float
/// type.
///
/// # Errors
/// - If the number of values is not N.
/// - An error of the device.
pub fn per_image(values: impl IntoIterator<Item = f64>, like: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; like.rank()];
    shape[0] = like.dim(0)?;
    let values: Vec<f64> = values.into_iter().collect();
    Tensor::from_vec(values, shape, like.device())?.to_dtype(like.dtype())
}
