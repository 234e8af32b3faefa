//! Distances between many points.

use candle_core::{Device, Tensor};

use super::frechet::finite_values;
use crate::EvalError;

/// The number of rows compared at once. It bounds the memory for distances.
const BLOCK: usize = 1024;
/// A squared distance below this share of the squared norms is rounding.
const ROUNDING: f64 = 1e-13;

/// Points in f64, with their squared norms.
#[derive(Clone, Debug)]
pub(crate) struct Points {
    /// (N, D).
    points: Tensor,
    /// |point|².
    squares: Vec<f64>,
}

impl Points {
    /// The points `points` (N, …), each flattened.
    pub(crate) fn new(points: &Tensor) -> Result<Self, EvalError> {
        let points = points.flatten_from(1)?;
        let (rows, width) = points.dims2()?;
        let values = finite_values(&points)?;
        let squares =
            values.chunks_exact(width.max(1)).map(|row| row.iter().map(|x| x * x).sum()).collect();
        Ok(Self { points: Tensor::from_vec(values, (rows, width), &Device::Cpu)?, squares })
    }

    pub(crate) fn len(&self) -> usize {
        self.squares.len()
    }

    /// Calls `visit` with the index of each of these points and its squared distances to all
    /// `others`.
    pub(crate) fn each_row_of_distances(
        &self,
        others: &Self,
        mut visit: impl FnMut(usize, &[f64]),
    ) -> Result<(), EvalError> {
        let (width, other_width) = (self.points.dim(1)?, others.points.dim(1)?);
        if width != other_width {
            return Err(EvalError::Width(width, other_width));
        }
        let columns = others.points.t()?;
        for first in (0..self.len()).step_by(BLOCK) {
            let rows = BLOCK.min(self.len() - first);
            let products =
                self.points.narrow(0, first, rows)?.matmul(&columns)?.to_vec2::<f64>()?;
            for (i, mut row) in products.into_iter().enumerate() {
                let square = self.squares[first + i];
                // |a − b|² = |a|² + |b|² − 2·a·b. Rounding must not separate equal points.
                for (product, other) in row.iter_mut().zip(&others.squares) {
                    let sum = square + other;
                    let distance = sum - 2.0 * *product;
                    *product = if distance > ROUNDING * sum { distance } else { 0.0 };
                }
                visit(first + i, &row);
            }
        }
        Ok(())
    }
}
