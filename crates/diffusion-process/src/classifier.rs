//! The interface of classifiers of noisy images.

use candle_core::{Result, Tensor, Var, bail};
use diffusion_schedule::NoiseLevel;

/// A classifier of noisy images, for any noise level. The noisier an image, the less certain its
/// class.
pub trait Classifier {
    /// The logits (N, classes) of `x_t` (N, C, H, W), differentiable in `x_t`. Their softmax is
    /// p(class | x_t). All images are at `level`.
    ///
    /// # Errors
    /// If the classifier does not support the shape.
    fn logits(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Tensor>;

    /// The gradient ∇ ln p(class | x_t) of each image, (N, C, H, W). 0 for images without a class.
    ///
    /// # Errors
    /// - If the classifier does not support the shape.
    /// - If the number of classes is not N, or the classifier does not know a class.
    fn gradient(&self, x_t: &Tensor, level: NoiseLevel, classes: &[Option<u32>]) -> Result<Tensor> {
        class_gradient(self, x_t, level, classes)
    }
}

/// The default implementation of [`Classifier::gradient`], by a backward pass through the logits.
///
/// # Errors
/// - If the classifier does not support the shape.
/// - If the number of classes is not N, or the classifier does not know a class.
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

/// ln p(class) of each image (N), from `logits` (N, classes). 0 for images without a class.
///
/// # Errors
/// - If the number of classes is not N.
/// - If a class has no logit.
pub fn log_likelihood(logits: &Tensor, classes: &[Option<u32>]) -> Result<Tensor> {
    let (n, num_classes) = logits.dims2()?;
    if classes.len() != n {
        bail!("expected {n} classes (one per image), got {}", classes.len());
    }
    if let Some(class) = classes.iter().flatten().find(|class| **class as usize >= num_classes) {
        bail!(
            "class {class} is not among the {num_classes} classes of the classifier, \
             which count from 0"
        );
    }
    // ln p = logit of the class − ln Σ exp(logits). Without a class, both terms are 0.
    let mut one_hot = vec![0f32; n * num_classes];
    for (row, class) in one_hot.chunks_exact_mut(num_classes).zip(classes) {
        if let Some(class) = class {
            row[*class as usize] = 1.0;
        }
    }
    let one_hot = Tensor::from_vec(one_hot, (n, num_classes), logits.device())?;
    let log_sums = (logits.log_sum_exp(1)? * one_hot.sum(1)?)?;
    (logits * &one_hot)?.sum(1)? - log_sums
}
