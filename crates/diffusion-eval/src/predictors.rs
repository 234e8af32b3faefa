//! The noise-prediction error of models and trivial baselines, by timestep.

mod check;

use candle_core::{Result, Tensor, bail};
use diffusion_process::{Denoiser, Domain, NoiseLevel, NoiseSource};

pub use self::check::BaselineCheck;
use crate::noisy::NoisyImages;

/// A predictor of the noise: a model or a trivial baseline.
pub enum Predictor<'a> {
    /// Predicts 0. Its error in ε is the variance of the noise: 1 at every timestep.
    Zero,
    /// Predicts independent noise. Its error in ε is the sum of two variances: 2 at every timestep.
    Random,
    /// Predicts the true noise. Its error is 0.
    Perfect,
    /// A model.
    Model(&'a dyn Denoiser),
}

/// A mean over images and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The standard error of the mean: the standard deviation over images, divided by the square
    /// root of their number. NaN for one image.
    pub standard_error: f64,
}

/// The error of a noise prediction in two scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictionError {
    /// The mean square of ε̂ − ε. Training minimises it if the model predicts ε.
    pub noise: Estimate,
    /// The same in the scale of the image, (1 − ᾱ_t)·(ε̂ − ε)²: the error of the image after the
    /// predicted noise is removed.
    pub image: Estimate,
}

/// The error over a bin of consecutive levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorBin {
    /// The positions of the first and the last level.
    pub levels: (usize, usize),
    /// The error over these levels.
    pub error: PredictionError,
}

/// The errors of a predictor over all levels and in each bin.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictorErrors {
    /// The error over all levels, with equal weights.
    pub overall: PredictionError,
    /// The bins, from the cleanest to the noisiest.
    pub bins: Vec<ErrorBin>,
}

/// Measures the errors of predictors on the same images with the same noise.
///
/// In each bin, every image gets the noise of up to 8 levels, evenly spaced over the bin. The mean
/// is over these levels and over images. The standard error is that over images.
///
/// ```
/// use candle_core::Device;
/// use diffusion_eval::{Predictor, PredictorEvaluation, tutorial_images};
/// use diffusion_schedule::ScheduleConfig;
///
/// let config = ScheduleConfig { num_train_timesteps: 200, ..ScheduleConfig::default() };
/// let schedule = config.build()?;
/// let levels = (0..schedule.len()).map(|t| schedule.level(t)).collect();
/// let images = tutorial_images(0, &Device::Cpu)?;
/// let evaluation = PredictorEvaluation::new(&images, levels, 4, 0)?;
/// let zero = evaluation.errors(&Predictor::Zero)?;
/// assert!((zero.overall.noise.mean - 1.0).abs() < 0.02);
/// assert!(zero.bins[3].error.image.mean > 5.0 * zero.bins[0].error.image.mean);
/// assert_eq!(evaluation.errors(&Predictor::Perfect)?.overall.noise.mean, 0.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PredictorEvaluation<'a> {
    images: NoisyImages<'a>,
    levels: Vec<NoiseLevel>,
    bins: usize,
}

/// The largest number of levels evaluated in each bin.
const LEVELS_PER_BIN: usize = 8;
/// The default batch size.
pub(crate) const BATCH: usize = 64;

/// 50 images (1, 32, 32) of normal noise, clipped to \[−1, 1\].
///
/// They are the images of an exercise in the tutorial (Learn AI Series #84, Generative Images –
/// Diffusion Models, Part 1). Trivial baselines have the same error on any images.
///
/// # Errors
/// An error of the device.
pub fn tutorial_images(seed: u64, device: &candle_core::Device) -> Result<Tensor> {
    NoiseSource::new(seed)
        .normal(Domain::Initial, 0, 0..50, &[1, 32, 32], device)?
        .clamp(-1f32, 1f32)
}

impl<'a> PredictorEvaluation<'a> {
    /// An evaluation on `images` (N, C, H, W) in \[−1, 1\]. `levels` go from the cleanest to the
    /// noisiest and are divided into `bins` of about equal size. `seed` determines the noise.
    ///
    /// # Errors
    /// If there are no images. If `bins` is 0 or above the number of levels.
    pub fn new(
        images: &'a Tensor,
        levels: Vec<NoiseLevel>,
        bins: usize,
        seed: u64,
    ) -> Result<Self> {
        check_bins(bins, levels.len())?;
        Ok(Self { images: NoisyImages::new(images, seed)?, levels, bins })
    }

    /// The errors of `predictor`.
    ///
    /// # Errors
    /// An error of the model. If a prediction is not finite.
    pub fn errors(&self, predictor: &Predictor<'_>) -> Result<PredictorErrors> {
        let count = self.images.count();
        // The sums of each image, weighted by the widths of the bins.
        let mut overall = [vec![0.0; count], vec![0.0; count]];
        let mut bins = Vec::with_capacity(self.bins);
        for bin in 0..self.bins {
            let (first, end) = bounds(bin, self.bins, self.levels.len());
            let looks = LEVELS_PER_BIN.min(end - first);
            let mut sums = [vec![0.0; count], vec![0.0; count]];
            for look in 0..looks {
                let index = first + (2 * look + 1) * (end - first) / (2 * looks);
                let squares = self.squares(predictor, index)?;
                // The share of the noise in the variance: 1 − ᾱ, on any path of levels.
                let level = &self.levels[index];
                let noise_share = (level.noise * level.to_variance_preserving()).powi(2);
                for (i, square) in squares.into_iter().enumerate() {
                    sums[0][i] += square / looks as f64;
                    sums[1][i] += noise_share * square / looks as f64;
                }
            }
            let weight = (end - first) as f64 / self.levels.len() as f64;
            for (overall, sums) in overall.iter_mut().zip(&sums) {
                overall.iter_mut().zip(sums).for_each(|(overall, sum)| *overall += weight * sum);
            }
            bins.push(ErrorBin { levels: (first, end - 1), error: error(&sums) });
        }
        Ok(PredictorErrors { overall: error(&overall), bins })
    }

    /// The mean square of ε̂ − ε of each image at one level.
    fn squares(&self, predictor: &Predictor<'_>, index: usize) -> Result<Vec<f64>> {
        let (count, level) = (self.images.count(), self.levels[index]);
        let mut squares = Vec::with_capacity(count);
        for first in (0..count).step_by(BATCH) {
            let chosen: Vec<usize> = (first..count.min(first + BATCH)).collect();
            let noisy = self.images.at(index, level, &chosen)?;
            let predicted = match predictor {
                Predictor::Zero => noisy.noise.zeros_like()?,
                Predictor::Random => self.images.normal(Domain::Sampler, index, &chosen)?,
                Predictor::Perfect => noisy.noise.clone(),
                Predictor::Model(model) => model.denoise(&noisy.x_t, level)?.noise,
            };
            let error = (predicted - noisy.noise)?.sqr()?.flatten_from(1)?.mean(1)?;
            squares.extend(error.to_vec1::<f32>()?.into_iter().map(f64::from));
        }
        if let Some(i) = squares.iter().position(|square| !square.is_finite()) {
            return Err(not_finite(i, index));
        }
        Ok(squares)
    }
}

/// Checks the number of bins.
///
/// # Errors
/// If `bins` is 0 or above `levels`.
pub(crate) fn check_bins(bins: usize, levels: usize) -> Result<()> {
    if bins == 0 || bins > levels {
        bail!("bins must be between 1 and the number of levels, {levels}; got {bins}");
    }
    Ok(())
}

/// The positions of the first level of bin `bin` of `bins` and of the next bin, for `levels`
/// levels.
pub(crate) fn bounds(bin: usize, bins: usize, levels: usize) -> (usize, usize) {
    (bin * levels / bins, (bin + 1) * levels / bins)
}

pub(crate) fn not_finite(image: usize, index: usize) -> candle_core::Error {
    candle_core::Error::Msg(format!(
        "the prediction for image {image} at level {index} is not finite"
    ))
    .bt()
}

fn error([noise, image]: &[Vec<f64>; 2]) -> PredictionError {
    PredictionError { noise: estimate(noise), image: estimate(image) }
}

/// The mean of `values` and its standard error.
pub(crate) fn estimate(values: &[f64]) -> Estimate {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Estimate { mean, standard_error: (variance / n).sqrt() }
}
