//! How far a prediction of the noise is from the noise, by timestep.

mod check;

use candle_core::{Result, Tensor, bail};
use diffusion_process::{Denoiser, Domain, NoiseLevel, NoiseSource};

pub use self::check::BaselineCheck;
use crate::noisy::NoisyImages;

/// Who predicts the noise.
pub enum Predictor<'a> {
    /// Says that there is none. Its error in ε is the noise's variance, 1 at every timestep.
    Zero,
    /// Draws other noise. Its error in ε is 2 at every timestep: two variances.
    Random,
    /// Knows the answer. Its error is 0.
    Perfect,
    /// Any model.
    Model(&'a dyn Denoiser),
}

/// A mean over images, and how far it may be from that over all images there could be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error: the deviation between images by the root of their number. NaN for one image.
    pub standard_error: f64,
}

/// Two scales of one error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictionError {
    /// The mean square of ε̂ − ε: what training minimises where ε is predicted.
    pub noise: Estimate,
    /// The same in the image's own scale, (1 − ᾱ_t)·(ε̂ − ε)²: what is wrong with the image that is left when
    /// the predicted noise is taken away.
    pub image: Estimate,
}

/// The error over some of the levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorBin {
    /// The first level's position and the last one's.
    pub levels: (usize, usize),
    /// Over them.
    pub error: PredictionError,
}

/// What a predictor does at all levels together, and in each bin.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictorErrors {
    /// Over all levels, each counting the same.
    pub overall: PredictionError,
    /// From the cleanest to the noisiest.
    pub bins: Vec<ErrorBin>,
}

/// The same images with the same noise on them, for every predictor that is asked.
///
/// In each bin, every image is looked at with the noise of several levels, evenly spaced over the bin. The
/// mean is over those levels and over images; the standard error says what other images would change.
///
/// ```
/// use candle_core::Device;
/// use diffusion_eval::{Predictor, PredictorEvaluation, lesson_images};
/// use diffusion_schedule::ScheduleConfig;
///
/// let schedule = ScheduleConfig { num_train_timesteps: 200, ..ScheduleConfig::default() }.build()?;
/// let levels = (0..schedule.len()).map(|t| schedule.level(t)).collect();
/// let images = lesson_images(0, &Device::Cpu)?;
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

/// Levels looked at in each bin.
const LOOKS: usize = 8;
/// Images at once, unless said otherwise.
pub(crate) const BATCH: usize = 64;

/// The 50 images (1, 32, 32) of the lesson's exercise: standard normal pixels, cut to \[−1, 1\]. What they
/// show does not matter to predictors that know nothing.
///
/// # Errors
/// Those of the device.
pub fn lesson_images(seed: u64, device: &candle_core::Device) -> Result<Tensor> {
    NoiseSource::new(seed)
        .normal(Domain::Initial, 0, 0..50, &[1, 32, 32], device)?
        .clamp(-1f32, 1f32)
}

impl<'a> PredictorEvaluation<'a> {
    /// `images` (N, C, H, W) in \[−1, 1\], all `levels` from the cleanest to the noisiest, to be divided into
    /// `bins` of one size or nearly so; noise from `seed`.
    ///
    /// # Errors
    /// No images; no bins, or more than levels.
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
    /// Those of the model; a prediction that is not finite.
    pub fn errors(&self, predictor: &Predictor<'_>) -> Result<PredictorErrors> {
        let count = self.images.count();
        // Of each image, weighted by the bins' widths.
        let mut overall = [vec![0.0; count], vec![0.0; count]];
        let mut bins = Vec::with_capacity(self.bins);
        for bin in 0..self.bins {
            let (first, end) = bounds(bin, self.bins, self.levels.len());
            let looks = LOOKS.min(end - first);
            let mut sums = [vec![0.0; count], vec![0.0; count]];
            for look in 0..looks {
                let index = first + (2 * look + 1) * (end - first) / (2 * looks);
                let squares = self.squares(predictor, index)?;
                // The noise's share of an image of variance 1: 1 − ᾱ, whatever path the levels are on.
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

    /// The mean square of ε̂ − ε in each image, at one level.
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

/// # Errors
/// No bins, or more than levels.
pub(crate) fn check_bins(bins: usize, levels: usize) -> Result<()> {
    if bins == 0 || bins > levels {
        bail!("{bins} bins of {levels} levels; there must be 1 to as many as levels");
    }
    Ok(())
}

/// The positions where bin `bin` of `bins` begins and the next one does, of `levels` in all.
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

/// Their mean, and its standard error.
pub(crate) fn estimate(values: &[f64]) -> Estimate {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Estimate { mean, standard_error: (variance / n).sqrt() }
}
