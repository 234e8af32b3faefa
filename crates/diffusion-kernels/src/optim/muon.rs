//! The optimiser Muon: momentum with orthogonalised directions.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::arith::isa::Isa;
use crate::arith::product::{Factor, Target, product};
use crate::arith::vector::LANES;
use crate::memory::scratch::Scratch;
use crate::memory::storage::{with_elements, with_elements_mut};
use crate::optim::{ParameterState, check_disjoint};

/// The number of iterations that bring singular values near 1 (Jordan et al. 2024).
pub(crate) const ITERATIONS: usize = 5;
/// The coefficients (a, b, c) of the polynomial a·x + b·x³ + c·x⁵ of one iteration.
pub(crate) const POLYNOMIAL: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);
/// Added to the norm, so that a gradient of zeros is not divided by zero.
pub(crate) const TINY: f32 = 1e-7;

/// The constants of one Muon update (Jordan et al. 2024, "Muon: an optimizer for hidden layers in
/// neural networks").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// The learning rate.
    pub lr: f64,
    /// The decay of the momentum, in [0, 1).
    pub momentum: f64,
    /// The decoupled weight decay.
    pub weight_decay: f64,
    /// The root mean square of an update before the learning rate. With about 0.2, that of AdamW,
    /// one learning rate serves both (Liu et al. 2025, "Muon is scalable for LLM training", section
    /// 2.2).
    pub update_rms: f64,
    /// The factor of the gradient, for clipping. 1 leaves the gradient unchanged.
    pub gradient_scale: f64,
}

impl Muon {
    /// The factor of the orthogonalised direction, before the learning rate.
    pub(crate) fn update_scale(&self, rows: usize, columns: usize) -> f64 {
        self.update_rms * (rows.max(columns) as f64).sqrt()
    }
}

/// A parameter with its gradient.
pub type Update<'a> = (&'a Tensor, ParameterState<'a>);

/// The rows and columns of a weight. All dimensions but the first are flattened into columns.
pub(crate) fn matrix_of(weight: &Tensor) -> Result<(usize, usize)> {
    match weight.dims() {
        [rows, others @ ..] if !others.is_empty() => Ok((*rows, others.iter().product())),
        other => bail!(
            "muon: only matrices (2 or more dimensions) can be updated, got a parameter of shape {other:?}"
        ),
    }
}

/// [`crate::muon`] by the kernels, one task for each parameter.
pub(crate) fn muon(isa: Isa, updates: &[Update<'_>], muon: &Muon) -> Result<()> {
    updates.par_iter().try_for_each(|(gradient, parameter)| {
        let ParameterState { weight, first, average, .. } = *parameter;
        let (rows, columns) = matrix_of(weight)?;
        let mut changed: Vec<&Tensor> = vec![weight, first];
        changed.extend(average.map(|(average, _)| average.as_tensor()));
        check_disjoint("muon", &changed, gradient)?;
        with_elements([*gradient], |[gradient]| {
            with_elements_mut(&changed, &mut |slices| {
                let [weight, momentum, average_weight @ ..] = slices else {
                    bail!("expected two or three slices")
                };
                let (decay, scale) = (muon.momentum as f32, muon.gradient_scale as f32);
                let mut direction = Scratch::new(rows * columns);
                for ((m, g), d) in momentum.iter_mut().zip(gradient).zip(direction.iter_mut()) {
                    let g = g * scale;
                    *m = *m * decay + g;
                    // Nesterov momentum.
                    *d = g + *m * decay;
                }
                orthogonalise(isa, &mut direction, rows, columns);
                let decay_factor = (1.0 - muon.lr * muon.weight_decay) as f32;
                let rate = (muon.lr * muon.update_scale(rows, columns)) as f32;
                for (w, d) in weight.iter_mut().zip(direction.iter()) {
                    *w = *w * decay_factor - d * rate;
                }
                if let (Some((_, share)), [average]) = (average, average_weight) {
                    let share = share as f32;
                    for (average, w) in average.iter_mut().zip(weight.iter()) {
                        *average -= (*average - w) * share;
                    }
                }
                Ok(())
            })
        })
    })
}

/// Brings the singular values of `matrix` (rows, columns) to between about 0.7 and 1.2.
fn orthogonalise(isa: Isa, matrix: &mut [f32], rows: usize, columns: usize) {
    let norm = matrix.iter().map(|x| x * x).sum::<f32>().sqrt() + TINY;
    // The products are smaller if the short side comes first.
    let tall = rows > columns;
    let (short, long) = if tall { (columns, rows) } else { (rows, columns) };
    let at = |i: usize, j: usize| if tall { j * columns + i } else { i * columns + j };
    // Columns are padded with zeros to whole vectors.
    let (short_row, long_row) = (short.next_multiple_of(LANES), long.next_multiple_of(LANES));
    let mut x = Scratch::zeroed(short * long_row);
    for i in 0..short {
        for j in 0..long {
            x[i * long_row + j] = matrix[at(i, j)] / norm;
        }
    }
    let mut transposed = Scratch::zeroed(long * short_row);
    for i in 0..short {
        for j in 0..long {
            transposed[j * short_row + i] = x[i * long_row + j];
        }
    }
    // Every iterate is p(X·Xᵀ) · X for a polynomial p. So the iterations need square matrices only:
    // the Gram matrix of the iterate, and p. An error of the Gram matrix grows at most by a² ≈ 12
    // in an iteration, so rounding ends at about 0.0001 of the result.
    let square = || Scratch::new(short * short_row);
    let (mut gram, mut step, mut other, mut polynomial) = (square(), square(), square(), square());
    let size = [short, short_row];
    let times = |left: &[f32], right: &[f32], result: &mut [f32]| {
        let factor = Factor::matrix(left, short_row, short);
        product(isa, factor, right, size, Target::new(result, short_row));
    };
    let factor = Factor::matrix(&x, long_row, long);
    product(isa, factor, &transposed, size, Target::new(&mut gram, short_row));
    let (a, b, c) = POLYNOMIAL;
    for iteration in 0..ITERATIONS {
        // The iterate is multiplied by step = a + b·gram + c·gram².
        times(&gram, &gram, &mut step);
        for (step, gram) in step.iter_mut().zip(gram.iter()) {
            *step = b * gram + c * *step;
        }
        for i in 0..short {
            step[i * short_row + i] += a;
        }
        if iteration == 0 {
            polynomial.copy_from_slice(&step);
        } else {
            times(&step, &polynomial, &mut other);
            std::mem::swap(&mut polynomial, &mut other);
        }
        if iteration + 1 < ITERATIONS {
            times(&step, &gram, &mut other);
            times(&other, &step, &mut gram);
        }
    }
    let mut next = Scratch::new(short * long_row);
    let factor = Factor::matrix(&polynomial, short_row, short);
    product(isa, factor, &x, [short, long_row], Target::new(&mut next, long_row));
    for i in 0..short {
        for j in 0..long {
            matrix[at(i, j)] = next[i * long_row + j];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arith::isa::available;

    /// The iterations of the definition, in f64.
    fn by_definition(matrix: &[f32], rows: usize, columns: usize) -> Vec<f64> {
        let norm = matrix.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let mut x: Vec<f64> = matrix.iter().map(|x| f64::from(*x) / norm).collect();
        let [a, b, c] = [POLYNOMIAL.0, POLYNOMIAL.1, POLYNOMIAL.2].map(f64::from);
        for _ in 0..ITERATIONS {
            let dot = |i: usize, j: usize| -> f64 {
                (0..columns).map(|k| x[i * columns + k] * x[j * columns + k]).sum()
            };
            let gram: Vec<f64> =
                (0..rows * rows).map(|index| dot(index / rows, index % rows)).collect();
            let times = |left: &[f64], right: &[f64], width: usize| -> Vec<f64> {
                let entry = |index: usize| {
                    (0..rows)
                        .map(|k| left[index / width * rows + k] * right[k * width + index % width])
                        .sum()
                };
                (0..rows * width).map(entry).collect()
            };
            let (once, twice) = (times(&gram, &x, columns), times(&gram, &gram, rows));
            let twice = times(&twice, &x, columns);
            x = (0..x.len()).map(|i| a * x[i] + b * once[i] + c * twice[i]).collect();
        }
        x
    }

    #[test]
    fn directions_with_small_singular_values_grow_as_by_the_definition() {
        let (rows, columns) = (24, 90);
        // Each row is random, and small beside a part that all rows share.
        let random = |index: usize| {
            let hash = (index as u32 + 1).wrapping_mul(2_654_435_761);
            f64::from((hash ^ (hash >> 15)).wrapping_mul(2_246_822_519)) / f64::from(u32::MAX) - 0.5
        };
        let matrix: Vec<f32> = (0..rows * columns)
            .map(|index| {
                let (i, j) = (index / columns, index % columns);
                ((1.0 + i as f64) * random(j) + 0.003 * random(columns + index)) as f32
            })
            .collect();
        let expected = by_definition(&matrix, rows, columns);
        let size = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
        for isa in available() {
            let mut result = matrix.clone();
            orthogonalise(isa, &mut result, rows, columns);
            let errors = result.iter().zip(&expected).map(|(x, y)| (f64::from(*x) - y).powi(2));
            let error = (errors.sum::<f64>() / expected.len() as f64).sqrt() / size;
            assert!(error < 2e-3, "{error}");
        }
    }
}
