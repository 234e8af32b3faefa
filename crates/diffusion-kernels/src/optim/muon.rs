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
    let (mut square, mut fourth) =
        (Scratch::new(short * short_row), Scratch::new(short * short_row));
    let mut next = Scratch::new(short * long_row);
    let (a, b, c) = POLYNOMIAL;
    for _ in 0..ITERATIONS {
        for i in 0..short {
            for j in 0..long {
                transposed[j * short_row + i] = x[i * long_row + j];
            }
        }
        let size = [short, short_row];
        let factor = Factor::matrix(&x, long_row, long);
        product(isa, factor, &transposed, size, Target::new(&mut square, short_row));
        let factor = Factor::matrix(&square, short_row, short);
        product(isa, factor, &square, size, Target::new(&mut fourth, short_row));
        for (fourth, square) in fourth.iter_mut().zip(square.iter()) {
            *fourth = b * square + c * *fourth;
        }
        let factor = Factor::matrix(&fourth, short_row, short);
        product(isa, factor, &x, [short, long_row], Target::new(&mut next, long_row));
        for (x, next) in x.iter_mut().zip(next.iter()) {
            *x = a * *x + next;
        }
    }
    for i in 0..short {
        for j in 0..long {
            matrix[at(i, j)] = x[i * long_row + j];
        }
    }
}
