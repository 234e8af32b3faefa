//! Low-frequency guidance by a reference picture.

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, NoiseLevel, Prediction};

/// Gives the predictions the low frequencies of a reference picture y: x̂₀ + φ(y) − φ(x̂₀), where φ
/// scales an image down by `factor` and up again. This is iterative latent variable refinement
/// (ILVR, Choi et al. 2021), applied to the prediction instead of the noisy image, so that it works
/// with every sampler.
#[derive(Clone)]
pub struct ReferenceGuided<'a> {
    denoiser: &'a dyn Denoiser,
    /// φ(y).
    low: Tensor,
    filter: LowPass,
    /// Below this σ, predictions are not changed.
    min_sigma: f64,
}

impl<'a> ReferenceGuided<'a> {
    /// Guides `denoiser` by `reference`: (1, C, H, W), or one picture for each image. `factor` is
    /// at least 1; a larger factor follows the reference less closely. At σ below `min_sigma` the
    /// predictions are not changed.
    ///
    /// # Errors
    /// If `reference` does not have 4 dimensions, or if `factor` is below 1 or not finite.
    pub fn new(
        denoiser: &'a dyn Denoiser,
        reference: &Tensor,
        factor: f64,
        min_sigma: f64,
    ) -> Result<Self> {
        let (_, _, height, width) = reference.dims4()?;
        let filter = LowPass::new(height, width, factor, reference)?;
        Ok(Self { denoiser, low: filter.apply(reference)?, filter, min_sigma })
    }
}

impl Denoiser for ReferenceGuided<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let prediction = self.denoiser.denoise(x_t, level)?;
        if level.sigma() < self.min_sigma || level.is_clean() {
            return Ok(prediction);
        }
        let x0 = (&prediction.x0 - self.filter.apply(&prediction.x0)?)?.broadcast_add(&self.low)?;
        prediction.with_x0(x0, x_t, level)
    }
}

/// Scales images down and up again: area means, then linear interpolation between the centres of
/// the areas. The filter is one matrix for the rows and one for the columns.
#[derive(Clone)]
struct LowPass {
    /// (H, H).
    rows: Tensor,
    /// (W, W), transposed.
    columns: Tensor,
}

impl LowPass {
    fn new(height: usize, width: usize, factor: f64, like: &Tensor) -> Result<Self> {
        if !(factor >= 1.0 && factor.is_finite()) {
            candle_core::bail!(
                "the reference factor must be a finite number of at least 1, got {factor}"
            );
        }
        let matrix = |n: usize| {
            Tensor::from_vec(low_pass(n, factor), (n, n), like.device())?.to_dtype(like.dtype())
        };
        Ok(Self { rows: matrix(height)?, columns: matrix(width)?.t()?.contiguous()? })
    }

    /// Filters (N, C, H, W); the shape stays the same.
    fn apply(&self, images: &Tensor) -> Result<Tensor> {
        let (n, c, h, w) = images.dims4()?;
        let columns = images.contiguous()?.reshape((n * c * h, w))?.matmul(&self.columns)?;
        self.rows.broadcast_matmul(&columns.reshape((n * c, h, w))?)?.reshape((n, c, h, w))
    }
}

/// The n × n matrix, row by row, that scales n pixels down to about n / `factor` means and up
/// again.
fn low_pass(n: usize, factor: f64) -> Vec<f64> {
    let areas = ((n as f64 / factor).round() as usize).clamp(1, n);
    let size = n as f64 / areas as f64;
    // The weight of pixel j in the mean of area k.
    let share = |k: usize, j: usize| {
        let (begin, end) = (k as f64 * size, (k + 1) as f64 * size);
        ((j + 1) as f64).min(end).max(begin) / size - (j as f64).max(begin).min(end) / size
    };
    let mut matrix = vec![0.0; n * n];
    for i in 0..n {
        let position = ((i as f64 + 0.5) / size - 0.5).clamp(0.0, (areas - 1) as f64);
        let (low, part) = (position.floor() as usize, position.fract());
        for j in 0..n {
            let next = share((low + 1).min(areas - 1), j);
            matrix[i * n + j] = (1.0 - part) * share(low, j) + part * next;
        }
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::low_pass;

    #[test]
    fn means_are_kept_and_a_factor_of_one_changes_nothing() {
        for (n, factor) in [(28, 4.0), (28, 3.0), (7, 2.5), (5, 100.0)] {
            for row in low_pass(n, factor).chunks_exact(n) {
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{n} {factor}: {row:?}");
                assert!(row.iter().all(|share| *share >= 0.0));
            }
        }
        let identity = low_pass(6, 1.0);
        assert!(
            identity
                .iter()
                .enumerate()
                .all(|(i, v)| (v - f64::from(u8::from(i % 7 == 0))).abs() < 1e-12)
        );
    }
}
