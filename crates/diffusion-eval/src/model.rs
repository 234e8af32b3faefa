//! What a trained model has learned, by noise level: its losses, and its part of the variational bound.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use candle_core::{DType, Result, Tensor, bail};
use diffusion_process::{Denoiser, Domain, NoiseLevel};
use rand::RngExt;

use crate::noisy::NoisyImages;
use crate::predictors::{BATCH, bounds, check_bins, estimate, not_finite};
use crate::{Estimate, VariationalBound};

/// The mean squares of one estimate's errors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelLoss {
    /// Of ε̂ − ε.
    pub noise: Estimate,
    /// Of x̂₀ − x₀.
    pub x0: Estimate,
    /// Of v̂ − v, where v = √ᾱ·ε − √(1 − ᾱ)·x₀ (Salimans & Ho 2022), whatever path the levels are on.
    pub velocity: Estimate,
}

/// A model over some of the levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelBin {
    /// The first level's position and the last one's.
    pub levels: (usize, usize),
    /// The mean over them.
    pub loss: ModelLoss,
    /// The sum of their terms of the bound, in bits a dimension; that of level 0 is the decoder's.
    pub bits: Option<Estimate>,
}

/// The variational bound on −log₂ p(x₀), in bits a dimension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// L_T: what is left of the images in x_T. Its standard error comes from the images alone.
    pub prior: Estimate,
    /// Σ L_{t−1} over all t > 1.
    pub steps: Estimate,
    /// L_0: the decoder.
    pub decoder: Estimate,
    /// Their sum.
    pub total: Estimate,
}

/// A model at all levels together, and in each bin.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelErrors {
    /// Over all levels, each counting the same.
    pub overall: ModelLoss,
    /// From the cleanest to the noisiest.
    pub bins: Vec<ModelBin>,
    /// Where one was asked for.
    pub bound: Option<Bound>,
}

/// Images, and the levels at which a model is to see them.
///
/// The levels of a bin are divided into as many strata as there are looks, and each image is seen at one level of each, drawn by
/// itself, so that means and sums are unbiased and their standard errors, which are those over images, hold what the drawing adds.
/// With as many looks as levels, all are seen. For a bound, level 0 is a stratum of its own, and strata are narrow where terms are large.
/// All numbers follow from the images and the seed.
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
/// // It says that all pixels are 0.01, and they are 0.
/// let model = |x_t: &Tensor, level: NoiseLevel| {
///     let levels = Levels::new(&vec![level; x_t.dim(0)?], x_t)?;
///     Prediction::from_x0(&x_t.zeros_like()?.affine(1.0, 0.01)?, x_t, &levels)
/// };
/// let evaluation = ModelEvaluation::of_bound(&images, bound, 4, 8, 0)?;
/// let errors = evaluation.errors(&model, &mut |_, _| ControlFlow::Continue(()))?.ok_or("not stopped")?;
/// assert!((errors.overall.x0.mean - 1e-4).abs() < 1e-8);
/// assert!(errors.bound.ok_or("asked for")?.total.mean > 0.0);
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

/// What an image shows of the model at one level: the mean squares of ε, x₀ and v, and the term of the bound.
type Seen = [f64; 4];
/// The place of the last.
const BITS: usize = 3;

impl<'a> ModelEvaluation<'a> {
    /// The losses on `images` (N, C, H, W) in \[−1, 1\] at `levels`, from the cleanest to the noisiest, divided into `bins` of one size or
    /// nearly so, with `looks` at each image in each bin; noise from `seed`.
    ///
    /// # Errors
    /// No images; no looks; no bins, or more than levels.
    pub fn of_levels(
        images: &'a Tensor,
        levels: Vec<NoiseLevel>,
        bins: usize,
        looks: usize,
        seed: u64,
    ) -> Result<Self> {
        check_bins(bins, levels.len())?;
        if looks == 0 {
            bail!("a model must be looked at once in each bin at least");
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

    /// The same at all levels of the schedule of `bound`, and the bound. `images` have 256 grey levels.
    ///
    /// # Errors
    /// As above.
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

    /// With up to `batch` images at once, at least 1, in place of 64.
    #[must_use]
    pub fn in_batches_of(self, batch: usize) -> Self {
        Self { batch: batch.max(1), ..self }
    }

    /// What `model` makes of the images. `progress` is called with how many of all looks are done; `None` when it breaks off.
    ///
    /// # Errors
    /// Those of the model; an estimate that is not finite; a variance that was to be learned and was not.
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
        let (mut overall, mut decoder) = (self.nothing(), None);
        let mut of_bins = Vec::new();
        for (bin, strata) in bins.into_iter().enumerate() {
            let (first, end) = bounds(bin, self.bins, self.levels.len());
            let mut sums = self.nothing();
            for stratum in strata {
                let width = stratum.len() as f64;
                let at_zero = stratum == (0..1);
                let Some(seen) = self.look(model, stratum, &mut advance)? else { return Ok(None) };
                for (sums, seen) in sums.iter_mut().zip(&seen) {
                    sums.iter_mut().zip(seen).for_each(|(sum, seen)| *sum += width * seen);
                }
                if at_zero {
                    decoder = Some(column(&seen, BITS));
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
                Some(self.sum_up(bound, &decoder, &column(&overall, BITS))?)
            }
            _ => None,
        };
        Ok(Some(ModelErrors { overall: loss(&overall, self.levels.len()), bins: of_bins, bound }))
    }

    fn nothing(&self) -> Vec<Seen> {
        vec![Seen::default(); self.images.count()]
    }

    /// The parts of a bin out of each of which an image's level is drawn.
    fn strata(&self, bin: usize) -> Vec<Range<usize>> {
        let (first, end) = bounds(bin, self.bins, self.levels.len());
        let alone = (self.bound.is_some() && first == 0).then_some(0..1);
        let (first, looks) =
            if alone.is_some() { (1, self.looks.max(2) - 1) } else { (first, self.looks) };
        let weight = |t| self.bound.map_or(1.0, |bound| bound.expected_weight(t));
        let weights: Vec<f64> = (first..end).map(weight).collect();
        alone.into_iter().chain(divided(first, &weights, looks)).collect()
    }

    /// Each image at one level of `stratum`.
    fn look(
        &self,
        model: &dyn Denoiser,
        stratum: Range<usize>,
        advance: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<Seen>>> {
        let mut by_level = BTreeMap::<usize, Vec<usize>>::new();
        for image in 0..self.images.count() {
            let mut rng =
                self.images.source().rng(Domain::Timestep, stratum.start as u64, image as u64);
            by_level.entry(rng.random_range(stratum.clone())).or_default().push(image);
        }
        let mut seen = self.nothing();
        for (index, images) in by_level {
            for chosen in images.chunks(self.batch) {
                for (&image, now) in chosen.iter().zip(self.at(model, index, chosen)?) {
                    if now.iter().any(|value| !value.is_finite()) {
                        return Err(not_finite(image, index));
                    }
                    seen[image] = now;
                }
                if advance(chosen.len()).is_break() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(seen))
    }

    /// The images `chosen`, all at the level at `index`.
    fn at(&self, model: &dyn Denoiser, index: usize, chosen: &[usize]) -> Result<Vec<Seen>> {
        let level = self.levels[index];
        let noisy = self.images.at(index, level, chosen)?;
        let said = model.denoise(&noisy.x_t, level)?;
        let (x0, noise) = (rows(&noisy.x0)?, rows(&noisy.noise)?);
        let (said_x0, said_noise) = (rows(&said.x0)?, rows(&said.noise)?);
        let bits = match self.bound {
            Some(bound) => bound.term(index, &noisy.x0, &said.x0, said.variance.as_ref())?,
            None => vec![0.0; chosen.len()],
        };
        let scale = level.to_variance_preserving();
        let (signal, sigma) = (level.signal * scale, level.noise * scale);
        let differences = |said: &[f32], true_: &[f32]| -> Vec<f64> {
            said.iter().zip(true_).map(|(&a, &b)| f64::from(a) - f64::from(b)).collect()
        };
        let seen = bits.into_iter().enumerate().map(|(i, bits)| {
            let mut squares = [0.0; 3];
            let of_noise = differences(&said_noise[i], &noise[i]);
            let of_x0 = differences(&said_x0[i], &x0[i]);
            for (e, x) in of_noise.iter().zip(&of_x0) {
                squares[0] += e * e;
                squares[1] += x * x;
                squares[2] += (signal * e - sigma * x).powi(2);
            }
            let [noise, x, velocity] = squares.map(|sum| sum / of_x0.len() as f64);
            [noise, x, velocity, bits]
        });
        Ok(seen.collect())
    }

    /// The bound from each image's terms: the decoder's, and the sum of it and those of all steps.
    fn sum_up(&self, bound: VariationalBound<'_>, decoder: &[f64], all: &[f64]) -> Result<Bound> {
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

/// Each image's numbers.
fn rows(images: &Tensor) -> Result<Vec<Vec<f32>>> {
    images.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2()
}

fn column(seen: &[Seen], which: usize) -> Vec<f64> {
    seen.iter().map(|seen| seen[which]).collect()
}

/// The mean losses, from sums over `levels` levels.
fn loss(sums: &[Seen], levels: usize) -> ModelLoss {
    let of =
        |which| estimate(&sums.iter().map(|sums| sums[which] / levels as f64).collect::<Vec<_>>());
    ModelLoss { noise: of(0), x0: of(1), velocity: of(2) }
}

/// The positions from `first` on, one for each of `weights`, in `count` parts (or one a position) of about the same weight.
fn divided(first: usize, weights: &[f64], count: usize) -> Vec<Range<usize>> {
    let count = count.min(weights.len());
    let total: f64 = weights.iter().sum();
    let (mut parts, mut start, mut reached) = (Vec::with_capacity(count), 0, 0.0);
    for part in 1..=count {
        // As many positions must be left as parts.
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
