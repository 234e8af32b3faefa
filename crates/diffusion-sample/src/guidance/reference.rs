//! Images after a picture's large shapes.

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, NoiseLevel, Prediction};

/// A denoiser whose estimates have the low frequencies of a reference picture: x̂₀ + φ(y) − φ(x̂₀), where φ brings an image to a
/// `factor`-th of its size and back. It is the iterative latent variable refinement of Choi et al. 2021, done to the estimate in place
/// of the noisy image, so that every sampler can do it.
#[derive(Clone)]
pub struct AfterReference<'a> {
    denoiser: &'a dyn Denoiser,
    /// φ(y).
    low: Tensor,
    filter: LowPass,
    /// σ below which the images go their own way.
    until: f64,
}

impl<'a> AfterReference<'a> {
    /// `denoiser`, after `reference`, (1, C, H, W) or one for each image. `factor`, at least 1 and the larger the freer, says what a
    /// large shape is; at σ below `until` the images are left alone.
    ///
    /// # Errors
    /// A reference of another rank; a factor below 1.
    pub fn new(
        denoiser: &'a dyn Denoiser,
        reference: &Tensor,
        factor: f64,
        until: f64,
    ) -> Result<Self> {
        let (_, _, height, width) = reference.dims4()?;
        let filter = LowPass::new(height, width, factor, reference)?;
        Ok(Self { denoiser, low: filter.apply(reference)?, filter, until })
    }
}

impl Denoiser for AfterReference<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let said = self.denoiser.denoise(x_t, level)?;
        if level.sigma() < self.until || level.is_clean() {
            return Ok(said);
        }
        let x0 = (&said.x0 - self.filter.apply(&said.x0)?)?.broadcast_add(&self.low)?;
        said.with_x0(x0, x_t, level)
    }
}

/// Images at a lower resolution, brought back to their size: means of areas, and straight lines between their middles. A linear map of
/// rows and one of columns.
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
                "the factor of a reference is {factor}; it must be a number of at least 1"
            );
        }
        let matrix = |n: usize| {
            Tensor::from_vec(low_pass(n, factor), (n, n), like.device())?.to_dtype(like.dtype())
        };
        Ok(Self { rows: matrix(height)?, columns: matrix(width)?.t()?.contiguous()? })
    }

    /// (N, C, H, W) to the same shape.
    fn apply(&self, images: &Tensor) -> Result<Tensor> {
        let (n, c, h, w) = images.dims4()?;
        let columns = images.contiguous()?.reshape((n * c * h, w))?.matmul(&self.columns)?;
        self.rows.broadcast_matmul(&columns.reshape((n * c, h, w))?)?.reshape((n, c, h, w))
    }
}

/// An n × n matrix, row by row: down to about n / factor means, and up again.
fn low_pass(n: usize, factor: f64) -> Vec<f64> {
    let few = ((n as f64 / factor).round() as usize).clamp(1, n);
    let size = n as f64 / few as f64;
    // The share of pixel j in the mean of area k.
    let share = |k: usize, j: usize| {
        let (begin, end) = (k as f64 * size, (k + 1) as f64 * size);
        ((j + 1) as f64).min(end).max(begin) / size - (j as f64).max(begin).min(end) / size
    };
    let mut matrix = vec![0.0; n * n];
    for i in 0..n {
        let place = ((i as f64 + 0.5) / size - 0.5).clamp(0.0, (few - 1) as f64);
        let (low, part) = (place.floor() as usize, place.fract());
        for j in 0..n {
            let next = share((low + 1).min(few - 1), j);
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
