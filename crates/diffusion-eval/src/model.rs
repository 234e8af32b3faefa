//! The losses of a model by noise level, and its variational bound.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use candle_core::{DType, Result, Tensor, bail};
use diffusion_process::{Denoiser, Domain, NoiseLevel};
use rand::RngExt;

use crate::noisy::NoisyImages;
use crate::predictors::{BATCH, bounds, check_bins, estimate, not_finite};
use crate::{Estimate, VariationalBound};

/// The mean squared errors of a model's prediction in ε, x₀ and v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelLoss {
    /// The mean square of ε̂ − ε.
    pub noise: Estimate,
    /// The mean square of x̂₀ − x₀.
    pub x0: Estimate,
    /// The mean square of v̂ − v, with v = √ᾱ·ε − √(1 − ᾱ)·x₀ (Salimans & Ho 2022) on any path of
    /// levels.
    pub velocity: Estimate,
}

/// The losses of a model over a bin of consecutive levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelBin {
    /// The positions of the first and the last level.
    pub levels: (usize, usize),
    /// The mean losses over these levels.
    pub loss: ModelLoss,
    /// The sum of the bound's terms at these levels, in bits per dimension. The term of level 0 is
    /// the decoder's. `None` if the bound was not requested.
    pub bits: Option<Estimate>,
}

/// The variational bound on −log₂ p(x₀), in bits per dimension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// L_T: what is left of the images in x_T. Its standard error comes only from the choice of
    /// images.
    pub prior: Estimate,
    /// The sum of L_{t−1} over all t > 1.
    pub steps: Estimate,
    /// L_0: the decoder's term.
    pub decoder: Estimate,
    /// The sum of the three terms.
    pub total: Estimate,
}

/// The losses of a model over all levels and in each bin.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelErrors {
    /// The losses over all levels, with equal weights.
    pub overall: ModelLoss,
    /// The bins, from the cleanest to the noisiest.
    pub bins: Vec<ModelBin>,
    /// The variational bound; `None` if it was not requested.
    pub bound: Option<Bound>,
}

/// Measures the losses of a model by noise level and, optionally, its variational bound.
///
/// The levels of a bin are divided into strata, one for each look. Each image is evaluated at one
/// random level of each stratum, drawn independently of the other images. So means and sums are
/// unbiased, and their standard errors over images include the error from drawing levels. With as
/// many looks as levels, every image is evaluated at all levels.
///
/// For a bound, level 0 is a stratum of its own, and strata are narrow where terms are large.
/// Results depend only on the model, the images and the seed.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use candle_core::{Device, Tensor};
/// use diffusion_eval::{ModelEvaluation, VariationalBound};
/// use diffusion_process::{Levels, NoiseLevel, Prediction};
/// use diffusion_schedule::{ScheduleConfig, VarianceType};
///
/// let schedule = ScheduleConfig::default().build()?;
/// let bound = VariationalBound::new(&schedule, VarianceType::FixedSmall);
/// let images = Tensor::zeros((4, 1, 8, 8), candle_core::DType::F32, &Device::Cpu)?;
/// // This model predicts 0.01 for every pixel; the true value is 0.
/// let model = |x_t: &Tensor, level: NoiseLevel| {
///     let levels = Levels::new(&vec![level; x_t.dim(0)?], x_t)?;
///     Prediction::from_x0(&x_t.zeros_like()?.affine(1.0, 0.01)?, x_t, &levels)
/// };
/// let evaluation = ModelEvaluation::of_bound(&images, bound, 4, 8, 0)?;
/// let errors = evaluation
///     .errors(&model, &mut |_, _| ControlFlow::Continue(()))?
///     .ok_or("stopped")?;
/// assert!((errors.overall.x0.mean - 1e-4).abs() < 1e-8);
/// assert!(errors.bound.ok_or("no bound")?.total.mean > 0.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ModelEvaluation<'a> {
    images: NoisyImages<'a>,
    levels: Vec<NoiseLevel>,
    bins: usize,
    looks: usize,
    batch: usize,
    bound: Option<VariationalBound<'a>>,
}

/// The errors of one image at one level: the mean squared errors in ε, x₀ and v, and the term of
/// the bound in bits per dimension.
type ImageErrors = [f64; 4];
/// The index of the term of the bound.
const BITS: usize = 3;

impl<'a> ModelEvaluation<'a> {
    /// An evaluation of the losses on `images` (N, C, H, W) in \[−1, 1\]. `levels` go from the
    /// cleanest to the noisiest and are divided into `bins` of about equal size. `looks` is the
    /// number of levels at which each image is evaluated in each bin. `seed` determines the noise
    /// and the levels.
    ///
    /// # Errors
    /// If there are no images. If `looks` is 0. If `bins` is 0 or above the number of levels.
    pub fn of_levels(
        images: &'a Tensor,
        levels: Vec<NoiseLevel>,
        bins: usize,
        looks: usize,
        seed: u64,
    ) -> Result<Self> {
        check_bins(bins, levels.len())?;
        if looks == 0 {
            bail!("looks must be at least 1 per bin, got 0");
        }
        Ok(Self {
            images: NoisyImages::new(images, seed)?,
            levels,
            bins,
            looks,
            batch: BATCH,
            bound: None,
        })
    }

    /// An evaluation of the losses at all levels of the schedule of `bound`, and of the bound
    /// itself. `images` (N, C, H, W) must have 256 brightness levels in \[−1, 1\]. `bins`, `looks`
    /// and `seed` are those of [`of_levels`](Self::of_levels).
    ///
    /// # Errors
    /// If there are no images. If `looks` is 0. If `bins` is 0 or above the number of levels.
    pub fn of_bound(
        images: &'a Tensor,
        bound: VariationalBound<'a>,
        bins: usize,
        looks: usize,
        seed: u64,
    ) -> Result<Self> {
        let levels = (0..bound.schedule().len()).map(|t| bound.schedule().level(t)).collect();
        Ok(Self { bound: Some(bound), ..Self::of_levels(images, levels, bins, looks, seed)? })
    }

    /// Sets the batch size, at least 1. Default: 64.
    #[must_use]
    pub fn in_batches_of(self, batch: usize) -> Self {
        Self { batch: batch.max(1), ..self }
    }

    /// The errors of `model`. `progress` is called with the number of looks done and the number of
    /// all looks; returns `None` if it breaks.
    ///
    /// # Errors
    /// An error of the model. If a prediction is not finite. If the bound needs a learned variance
    /// and the model predicts none.
    pub fn errors(
        &self,
        model: &dyn Denoiser,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<ModelErrors>> {
        let bins: Vec<_> = (0..self.bins).map(|bin| self.strata(bin)).collect();
        let all = bins.iter().map(Vec::len).sum::<usize>() * self.images.count();
        let mut done = 0;
        let mut advance = |looks| {
            done += looks;
            progress(done, all)
        };
        let (mut overall, mut decoder) = (self.zeros(), None);
        let mut of_bins = Vec::new();
        for (bin, strata) in bins.into_iter().enumerate() {
            let (first, end) = bounds(bin, self.bins, self.levels.len());
            let mut sums = self.zeros();
            for stratum in strata {
                let width = stratum.len() as f64;
                let at_zero = stratum == (0..1);
                let Some(errors) = self.evaluate(model, stratum, &mut advance)? else {
                    return Ok(None);
                };
                for (sums, errors) in sums.iter_mut().zip(&errors) {
                    sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += width * error);
                }
                if at_zero {
                    decoder = Some(column(&errors, BITS));
                }
            }
            for (overall, sums) in overall.iter_mut().zip(&sums) {
                overall.iter_mut().zip(sums).for_each(|(overall, sum)| *overall += sum);
            }
            let bits = self.bound.map(|_| estimate(&column(&sums, BITS)));
            of_bins.push(ModelBin {
                levels: (first, end - 1),
                loss: loss(&sums, end - first),
                bits,
            });
        }
        let bound = match (self.bound, decoder) {
            (Some(bound), Some(decoder)) => {
                Some(self.total_bound(bound, &decoder, &column(&overall, BITS))?)
            }
            _ => None,
        };
        Ok(Some(ModelErrors { overall: loss(&overall, self.levels.len()), bins: of_bins, bound }))
    }

    fn zeros(&self) -> Vec<ImageErrors> {
        vec![ImageErrors::default(); self.images.count()]
    }

    /// The strata of a bin: one level of each is drawn for each image.
    fn strata(&self, bin: usize) -> Vec<Range<usize>> {
        let (first, end) = bounds(bin, self.bins, self.levels.len());
        let alone = (self.bound.is_some() && first == 0).then_some(0..1);
        let (first, looks) =
            if alone.is_some() { (1, self.looks.max(2) - 1) } else { (first, self.looks) };
        let weight = |t| self.bound.map_or(1.0, |bound| bound.expected_weight(t));
        let weights: Vec<f64> = (first..end).map(weight).collect();
        alone.into_iter().chain(divide(first, &weights, looks)).collect()
    }

    /// The errors of each image at a random level of `stratum`.
    fn evaluate(
        &self,
        model: &dyn Denoiser,
        stratum: Range<usize>,
        advance: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<ImageErrors>>> {
        let mut by_level = BTreeMap::<usize, Vec<usize>>::new();
        for image in 0..self.images.count() {
            let mut rng =
                self.images.source().rng(Domain::Timestep, stratum.start as u64, image as u64);
            by_level.entry(rng.random_range(stratum.clone())).or_default().push(image);
        }
        let mut errors = self.zeros();
        for (index, images) in by_level {
            for chosen in images.chunks(self.batch) {
                for (&image, error) in chosen.iter().zip(self.at(model, index, chosen)?) {
                    if error.iter().any(|value| !value.is_finite()) {
                        return Err(not_finite(image, index));
                    }
                    errors[image] = error;
                }
                if advance(chosen.len()).is_break() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(errors))
    }

    /// The errors of the images `chosen` at the level at `index`.
    fn at(&self, model: &dyn Denoiser, index: usize, chosen: &[usize]) -> Result<Vec<ImageErrors>> {
        let level = self.levels[index];
        let noisy = self.images.at(index, level, chosen)?;
        let predicted = model.denoise(&noisy.x_t, level)?;
        let (x0, noise) = (rows(&noisy.x0)?, rows(&noisy.noise)?);
        let (predicted_x0, predicted_noise) = (rows(&predicted.x0)?, rows(&predicted.noise)?);
        let bits = match self.bound {
            Some(bound) => {
                bound.term(index, &noisy.x0, &predicted.x0, predicted.variance.as_ref())?
            }
            None => vec![0.0; chosen.len()],
        };
        let scale = level.to_variance_preserving();
        let (signal, sigma) = (level.signal * scale, level.noise * scale);
        let differences = |predicted: &[f32], target: &[f32]| -> Vec<f64> {
            predicted.iter().zip(target).map(|(&a, &b)| f64::from(a) - f64::from(b)).collect()
        };
        let errors = bits.into_iter().enumerate().map(|(i, bits)| {
            let mut squares = [0.0; 3];
            let of_noise = differences(&predicted_noise[i], &noise[i]);
            let of_x0 = differences(&predicted_x0[i], &x0[i]);
            for (e, x) in of_noise.iter().zip(&of_x0) {
                squares[0] += e * e;
                squares[1] += x * x;
                squares[2] += (signal * e - sigma * x).powi(2);
            }
            let [noise, x, velocity] = squares.map(|sum| sum / of_x0.len() as f64);
            [noise, x, velocity, bits]
        });
        Ok(errors.collect())
    }

    /// The bound from the terms of each image: `decoder` is the decoder's term, `all` the sum of it
    /// and the terms of all steps.
    fn total_bound(
        &self,
        bound: VariationalBound<'_>,
        decoder: &[f64],
        all: &[f64],
    ) -> Result<Bound> {
        let prior = bound.prior(self.images.images())?;
        let steps: Vec<f64> = all.iter().zip(decoder).map(|(all, decoder)| all - decoder).collect();
        let total: Vec<f64> = all.iter().zip(&prior).map(|(all, prior)| all + prior).collect();
        Ok(Bound {
            prior: estimate(&prior),
            steps: estimate(&steps),
            decoder: estimate(decoder),
            total: estimate(&total),
        })
    }
}

/// The values of each image.
fn rows(images: &Tensor) -> Result<Vec<Vec<f32>>> {
    images.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2()
}

fn column(errors: &[ImageErrors], index: usize) -> Vec<f64> {
    errors.iter().map(|errors| errors[index]).collect()
}

/// The mean losses from sums over `levels` levels.
fn loss(sums: &[ImageErrors], levels: usize) -> ModelLoss {
    let of =
        |index| estimate(&sums.iter().map(|sums| sums[index] / levels as f64).collect::<Vec<_>>());
    ModelLoss { noise: of(0), x0: of(1), velocity: of(2) }
}

/// Divides the positions from `first` on, one for each weight, into `count` parts of about equal
/// weight. With fewer positions than `count`, each position is a part.
fn divide(first: usize, weights: &[f64], count: usize) -> Vec<Range<usize>> {
    let count = count.min(weights.len());
    let total: f64 = weights.iter().sum();
    let (mut parts, mut start, mut reached) = (Vec::with_capacity(count), 0, 0.0);
    for part in 1..=count {
        // Each of the remaining parts needs a position.
        let last = weights.len() - (count - part);
        let mut end = start + 1;
        reached += weights[start];
        while end < last
            && (part == count || reached + weights[end] / 2.0 < total * part as f64 / count as f64)
        {
            reached += weights[end];
            end += 1;
        }
        parts.push(first + start..first + end);
        start = end;
    }
    parts
}
