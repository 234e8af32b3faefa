//! What tells classes apart in noisy images.

use candle_core::{Result, Tensor, Var, bail};
use diffusion_schedule::NoiseLevel;

/// A classifier that knows noise: it reads an image at any level, and says less of it the noisier it is.
pub trait Classifier {
    /// (N, classes), differentiable in `x_t` (N, C, H, W), all of it at `level`: their softmax is p(class | x_t).
    ///
    /// # Errors
    /// Shapes that the classifier cannot read.
    fn logits(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Tensor>;

    /// ∇ ln p(class | x_t) of each image, (N, C, H, W) as `x_t`; 0 for images of no class in particular.
    ///
    /// # Errors
    /// As [`logits`](Self::logits); a number of classes other than N, or one that the classifier does not know.
    fn gradient(&self, x_t: &Tensor, level: NoiseLevel, classes: &[Option<u32>]) -> Result<Tensor> {
        class_gradient(self, x_t, level, classes)
    }
}

/// What [`Classifier::gradient`] does unless a classifier knows a faster way.
///
/// # Errors
/// As there.
pub fn class_gradient<C: Classifier + ?Sized>(
    classifier: &C,
    x_t: &Tensor,
    level: NoiseLevel,
    classes: &[Option<u32>],
) -> Result<Tensor> {
    let x_t = Var::from_tensor(&x_t.detach())?;
    let logits = classifier.logits(x_t.as_tensor(), level)?;
    let mut gradients = log_likelihood(&logits, classes)?.sum_all()?.backward()?;
    gradients.remove(&x_t).map_or_else(|| x_t.zeros_like(), |gradient| Ok(gradient.detach()))
}

/// ln p(class) of each image (N), by `logits` (N, classes); 0 for images of no class in particular.
///
/// # Errors
/// A number of classes other than N; a class that has no logit.
pub fn log_likelihood(logits: &Tensor, classes: &[Option<u32>]) -> Result<Tensor> {
    let (n, known) = logits.dims2()?;
    if classes.len() != n {
        bail!("{n} images want as many classes, not {}", classes.len());
    }
    if let Some(class) = classes.iter().flatten().find(|class| **class as usize >= known) {
        bail!("class {class} is not among the {known} that the classifier knows");
    }
    // ln p = logit of the class − ln Σ exp(logits), and neither of them where there is no class.
    let mut chosen = vec![0f32; n * known];
    for (row, class) in chosen.chunks_exact_mut(known).zip(classes) {
        if let Some(class) = class {
            row[*class as usize] = 1.0;
        }
    }
    let chosen = Tensor::from_vec(chosen, (n, known), logits.device())?;
    let log_sums = (logits.log_sum_exp(1)? * chosen.sum(1)?)?;
    (logits * &chosen)?.sum(1)? - log_sums
}
