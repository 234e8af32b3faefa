//! Denoisers around denoisers, which push each step towards what is wanted.

mod reference;

use candle_core::{Result, Tensor};
use diffusion_process::{Classifier, ConditionalDenoiser, Denoiser, NoiseLevel, Prediction};

pub use reference::AfterReference;

/// How strongly the better of two estimates is preferred.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// w in D = D₀ + w·(D₁ − D₀): 0 is the worse estimate alone, 1 the better one alone, and beyond 1 lies what distinguishes
    /// them, exaggerated (Ho & Salimans 2022, whose w is one less).
    pub scale: f64,
    /// φ, how much of x̂₀'s standard deviation is brought back to that of the better estimate, in \[0, 1\]; large scales
    /// otherwise exaggerate the contrast too (Lin et al. 2023, section 3.4).
    pub rescale: f64,
    /// The σ = noise / signal between which guidance works, both included; elsewhere the unguided estimate stands alone, which is the
    /// better one, or with [`ClassifierGuided`] the one that knows no class (Kynkäänniemi et al. 2024).
    pub interval: [f64; 2],
}

impl Default for Guidance {
    fn default() -> Self {
        Self { scale: 1.0, rescale: 0.0, interval: [0.0, f64::INFINITY] }
    }
}

impl Guidance {
    /// Guidance of this scale at all noise levels.
    pub fn new(scale: f64) -> Self {
        Self { scale, ..Self::default() }
    }

    /// w at `level`, which is `unguided` outside of the interval.
    fn scale_at(&self, level: &NoiseLevel, unguided: f64) -> f64 {
        let [low, high] = self.interval;
        if (low..=high).contains(&level.sigma()) { self.scale } else { unguided }
    }
}

/// Classifier-free guidance (Ho & Salimans 2022): away from what the model makes of the images without their classes. Both
/// estimates are computed in one batch; where only one of them counts, it alone is.
#[derive(Clone)]
pub struct ClassifierFree<'a> {
    denoiser: &'a dyn ConditionalDenoiser,
    classes: Vec<Option<u32>>,
    guidance: Guidance,
}

impl<'a> ClassifierFree<'a> {
    /// `denoiser` for as many images as `classes` has. Images of no class in particular are not guided.
    pub fn new(
        denoiser: &'a dyn ConditionalDenoiser,
        classes: Vec<Option<u32>>,
        guidance: Guidance,
    ) -> Self {
        Self { denoiser, classes, guidance }
    }
}

impl Denoiser for ClassifierFree<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let scale = self.guidance.scale_at(&level, 1.0);
        let none = || vec![None; self.classes.len()];
        if scale == 1.0 || self.classes.iter().all(Option::is_none) {
            return self.denoiser.denoise_classes(x_t, level, &self.classes);
        }
        if scale == 0.0 {
            return self.denoiser.denoise_classes(x_t, level, &none());
        }
        let both = [self.classes.clone(), none()].concat();
        let said = self.denoiser.denoise_classes(&Tensor::cat(&[x_t, x_t], 0)?, level, &both)?;
        let count = self.classes.len();
        let half = |first| -> Result<Prediction> {
            let part = |tensor: &Tensor| tensor.narrow(0, first, count);
            Ok(Prediction {
                x0: part(&said.x0)?,
                noise: part(&said.noise)?,
                variance: said.variance.as_ref().map(part).transpose()?,
            })
        };
        preferred(half(0)?, &half(count)?, scale, self.guidance.rescale, x_t, level)
    }
}

/// Autoguidance (Karras et al. 2024): away from what a worse model of the same images says, a smaller or an earlier one.
#[derive(Clone, Copy)]
pub struct Autoguided<'a> {
    denoiser: &'a dyn Denoiser,
    worse: &'a dyn Denoiser,
    guidance: Guidance,
}

impl<'a> Autoguided<'a> {
    /// `denoiser`, away from `worse`.
    pub fn new(denoiser: &'a dyn Denoiser, worse: &'a dyn Denoiser, guidance: Guidance) -> Self {
        Self { denoiser, worse, guidance }
    }
}

impl Denoiser for Autoguided<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let scale = self.guidance.scale_at(&level, 1.0);
        let better = self.denoiser.denoise(x_t, level)?;
        if scale == 1.0 {
            return Ok(better);
        }
        let worse = self.worse.denoise(x_t, level)?;
        preferred(better, &worse, scale, self.guidance.rescale, x_t, level)
    }
}

/// Classifier guidance (Dhariwal & Nichol 2021, algorithm 2): towards what a classifier of noisy images takes for the class. By Bayes'
/// rule a scale of 1 makes a model without classes one of that class, as far as the classifier is right.
#[derive(Clone)]
pub struct ClassifierGuided<'a> {
    denoiser: &'a dyn Denoiser,
    classifier: &'a dyn Classifier,
    classes: Vec<Option<u32>>,
    guidance: Guidance,
}

impl<'a> ClassifierGuided<'a> {
    /// `denoiser` for as many images as `classes` has. Images of no class in particular are not guided.
    pub fn new(
        denoiser: &'a dyn Denoiser,
        classifier: &'a dyn Classifier,
        classes: Vec<Option<u32>>,
        guidance: Guidance,
    ) -> Self {
        Self { denoiser, classifier, classes, guidance }
    }
}

impl Denoiser for ClassifierGuided<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let scale = self.guidance.scale_at(&level, 0.0);
        let plain = self.denoiser.denoise(x_t, level)?;
        // Noise alone has no class, and a clean image is what it is.
        let nothing_to_say = level.signal == 0.0 || level.is_clean();
        if scale == 0.0 || nothing_to_say || self.classes.iter().all(Option::is_none) {
            return Ok(plain);
        }
        // E[x₀ | x_t, class] = E[x₀ | x_t] + noise²/signal · ∇ ln p(class | x_t).
        let gradient = self.classifier.gradient(x_t, level, &self.classes)?;
        let x0 = (&plain.x0 + (gradient * (level.noise * level.noise / level.signal))?)?;
        let of_class = plain.clone().with_x0(x0, x_t, level)?;
        preferred(of_class, &plain, scale, self.guidance.rescale, x_t, level)
    }
}

/// A denoiser whose estimate a function of one's own changes at each step: given x_t, its level and what the denoiser said, it says
/// x̂₀ (N, C, H, W). The noise is then what is left of x_t.
#[derive(Clone, Copy)]
pub struct Steered<'a, F> {
    denoiser: &'a dyn Denoiser,
    steer: F,
}

impl<'a, F: Fn(&Tensor, NoiseLevel, &Prediction) -> Result<Tensor>> Steered<'a, F> {
    /// `denoiser`, steered by `steer`.
    pub fn new(denoiser: &'a dyn Denoiser, steer: F) -> Self {
        Self { denoiser, steer }
    }
}

impl<F: Fn(&Tensor, NoiseLevel, &Prediction) -> Result<Tensor>> Denoiser for Steered<'_, F> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let said = self.denoiser.denoise(x_t, level)?;
        let x0 = (self.steer)(x_t, level, &said)?;
        said.with_x0(x0, x_t, level)
    }
}

/// D₀ + `scale`·(D₁ − D₀), of `better` D₁ and `worse` D₀, with a share `rescale` of x̂₀'s standard deviation brought back.
fn preferred(
    better: Prediction,
    worse: &Prediction,
    scale: f64,
    rescale: f64,
    x_t: &Tensor,
    level: NoiseLevel,
) -> Result<Prediction> {
    let beyond = |better: &Tensor, worse: &Tensor| worse + ((better - worse)? * scale)?;
    let x0 = beyond(&better.x0, &worse.x0)?;
    if rescale == 0.0 || level.is_clean() {
        // x̂₀ and ε̂ are bound by x_t, and stay so under one combination of both.
        return Ok(Prediction {
            x0,
            noise: beyond(&better.noise, &worse.noise)?,
            variance: better.variance,
        });
    }
    let ratio =
        (deviation(&better.x0)? / deviation(&x0)?.maximum(f64::from(f32::MIN_POSITIVE))?)?;
    let x0 = x0.broadcast_mul(&ratio.affine(rescale, 1.0 - rescale)?)?;
    better.with_x0(x0, x_t, level)
}

/// Each image's standard deviation (N, 1, 1, 1).
fn deviation(images: &Tensor) -> Result<Tensor> {
    let mean = images.mean_keepdim((1, 2, 3))?;
    images.broadcast_sub(&mean)?.sqr()?.mean_keepdim((1, 2, 3))?.sqrt()
}
