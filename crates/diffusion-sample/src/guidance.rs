//! Guidance: denoisers that wrap a denoiser and change its prediction in each step.

mod reference;

use candle_core::{Result, Tensor};
use diffusion_process::{Classifier, ConditionalDenoiser, Denoiser, NoiseLevel, Prediction};

pub use reference::ReferenceGuided;

/// The strength of guidance, which combines a better prediction D₁ with a worse one D₀.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// w in D = D₀ + w·(D₁ − D₀). 0 is the worse prediction alone, 1 the better one alone; above 1
    /// the difference is amplified (Ho & Salimans 2022, whose w is one less). Default: 1.
    pub scale: f64,
    /// φ in \[0, 1\]: how far the standard deviation of x̂₀ is brought back to that of the better
    /// prediction. Without it, large scales also exaggerate the contrast (Lin et al. 2023, section
    /// 3.4). Default: 0.
    pub rescale: f64,
    /// The range of σ = noise / signal in which guidance is active, both ends included
    /// (Kynkäänniemi et al. 2024). Outside it, the unguided prediction is used: the better one, or
    /// with [`ClassifierGuided`] the unconditional one. Default: all σ.
    pub interval: [f64; 2],
}

impl Default for Guidance {
    fn default() -> Self {
        Self { scale: 1.0, rescale: 0.0, interval: [0.0, f64::INFINITY] }
    }
}

impl Guidance {
    /// Guidance with this scale at all noise levels.
    pub fn new(scale: f64) -> Self {
        Self { scale, ..Self::default() }
    }

    /// w at `level`. Outside the interval it is `unguided`.
    fn scale_at(&self, level: &NoiseLevel, unguided: f64) -> f64 {
        let [low, high] = self.interval;
        if (low..=high).contains(&level.sigma()) { self.scale } else { unguided }
    }
}

/// Classifier-free guidance (Ho & Salimans 2022): away from the model's own unconditional
/// prediction. Both predictions are computed in one batch. If only one of them counts, only that
/// one is computed.
#[derive(Clone)]
pub struct ClassifierFree<'a> {
    denoiser: &'a dyn ConditionalDenoiser,
    classes: Vec<Option<u32>>,
    guidance: Guidance,
}

impl<'a> ClassifierFree<'a> {
    /// Guides `denoiser`, with one class per image. Images without a class are not guided.
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
        let unconditional = || vec![None; self.classes.len()];
        if scale == 1.0 || self.classes.iter().all(Option::is_none) {
            return self.denoiser.denoise_classes(x_t, level, &self.classes);
        }
        if scale == 0.0 {
            return self.denoiser.denoise_classes(x_t, level, &unconditional());
        }
        let classes = [self.classes.clone(), unconditional()].concat();
        let prediction =
            self.denoiser.denoise_classes(&Tensor::cat(&[x_t, x_t], 0)?, level, &classes)?;
        let count = self.classes.len();
        let half = |first| -> Result<Prediction> {
            let part = |tensor: &Tensor| tensor.narrow(0, first, count);
            Ok(Prediction {
                x0: part(&prediction.x0)?,
                noise: part(&prediction.noise)?,
                variance: prediction.variance.as_ref().map(part).transpose()?,
            })
        };
        extrapolate(half(0)?, &half(count)?, scale, self.guidance.rescale, x_t, level)
    }
}

/// Autoguidance (Karras et al. 2024): away from the prediction of a weaker model, such as a smaller
/// or a less trained one.
#[derive(Clone, Copy)]
pub struct Autoguided<'a> {
    denoiser: &'a dyn Denoiser,
    weaker: &'a dyn Denoiser,
    guidance: Guidance,
}

impl<'a> Autoguided<'a> {
    /// Guides `denoiser` away from `weaker`.
    pub fn new(denoiser: &'a dyn Denoiser, weaker: &'a dyn Denoiser, guidance: Guidance) -> Self {
        Self { denoiser, weaker, guidance }
    }
}

impl Denoiser for Autoguided<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let scale = self.guidance.scale_at(&level, 1.0);
        let better = self.denoiser.denoise(x_t, level)?;
        if scale == 1.0 {
            return Ok(better);
        }
        let worse = self.weaker.denoise(x_t, level)?;
        extrapolate(better, &worse, scale, self.guidance.rescale, x_t, level)
    }
}

/// Classifier guidance (Dhariwal & Nichol 2021, algorithm 2): towards images that a classifier of
/// noisy images assigns to the class. By Bayes' rule, a scale of 1 turns an unconditional model
/// into one of that class, as far as the classifier is right.
#[derive(Clone)]
pub struct ClassifierGuided<'a> {
    denoiser: &'a dyn Denoiser,
    classifier: &'a dyn Classifier,
    classes: Vec<Option<u32>>,
    guidance: Guidance,
}

impl<'a> ClassifierGuided<'a> {
    /// Guides `denoiser`, with one class per image. Images without a class are not guided.
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
        // Pure noise has no class, and a clean image cannot change any more.
        let undefined = level.signal == 0.0 || level.is_clean();
        if scale == 0.0 || undefined || self.classes.iter().all(Option::is_none) {
            return Ok(plain);
        }
        // E[x₀ | x_t, class] = E[x₀ | x_t] + noise²/signal · ∇ ln p(class | x_t).
        let gradient = self.classifier.gradient(x_t, level, &self.classes)?;
        let x0 = (&plain.x0 + (gradient * (level.noise * level.noise / level.signal))?)?;
        let of_class = plain.clone().with_x0(x0, x_t, level)?;
        extrapolate(of_class, &plain, scale, self.guidance.rescale, x_t, level)
    }
}

/// Guidance by a custom function. The function receives x_t, its level and the prediction, and
/// returns a new x̂₀ (N, C, H, W). ε̂ is then recomputed from x_t and x̂₀.
#[derive(Clone, Copy)]
pub struct FunctionGuided<'a, F> {
    denoiser: &'a dyn Denoiser,
    function: F,
}

impl<'a, F: Fn(&Tensor, NoiseLevel, &Prediction) -> Result<Tensor>> FunctionGuided<'a, F> {
    /// Guides `denoiser` by `function`.
    pub fn new(denoiser: &'a dyn Denoiser, function: F) -> Self {
        Self { denoiser, function }
    }
}

impl<F: Fn(&Tensor, NoiseLevel, &Prediction) -> Result<Tensor>> Denoiser for FunctionGuided<'_, F> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let prediction = self.denoiser.denoise(x_t, level)?;
        let x0 = (self.function)(x_t, level, &prediction)?;
        prediction.with_x0(x0, x_t, level)
    }
}

/// D₀ + `scale`·(D₁ − D₀), with D₁ = `better` and D₀ = `worse`. `rescale` is φ of [`Guidance`].
fn extrapolate(
    better: Prediction,
    worse: &Prediction,
    scale: f64,
    rescale: f64,
    x_t: &Tensor,
    level: NoiseLevel,
) -> Result<Prediction> {
    let extrapolated = |better: &Tensor, worse: &Tensor| worse + ((better - worse)? * scale)?;
    let x0 = extrapolated(&better.x0, &worse.x0)?;
    if rescale == 0.0 || level.is_clean() {
        // x_t = signal·x̂₀ + noise·ε̂ holds for both predictions, so it also holds for
        // D₀ + scale·(D₁ − D₀).
        return Ok(Prediction {
            x0,
            noise: extrapolated(&better.noise, &worse.noise)?,
            variance: better.variance,
        });
    }
    let ratio =
        (deviation(&better.x0)? / deviation(&x0)?.maximum(f64::from(f32::MIN_POSITIVE))?)?;
    let x0 = x0.broadcast_mul(&ratio.affine(rescale, 1.0 - rescale)?)?;
    better.with_x0(x0, x_t, level)
}

/// The standard deviation of each image (N, 1, 1, 1).
fn deviation(images: &Tensor) -> Result<Tensor> {
    let mean = images.mean_keepdim((1, 2, 3))?;
    images.broadcast_sub(&mean)?.sqr()?.mean_keepdim((1, 2, 3))?.sqrt()
}
