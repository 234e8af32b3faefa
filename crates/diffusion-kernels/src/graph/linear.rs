//! The linear layer as a candle operation.

use candle_core::{CpuStorage, Device, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::arith::isa::Isa;
use crate::arith::product::{self, Factor, Target};
use crate::arith::vector::LANES;
use crate::graph::op::{Argument, MapOp, apply};
use crate::image::transpose::channels_last;
use crate::memory::scratch::Scratch;
use crate::memory::storage::{elements, output, with_elements};

/// The number of rows that one task computes.
const ROWS: usize = 14;

/// `a · b`, plus `start` in each row. `a` returns the left factor from a given row on; `b` is
/// dense, with columns padded to whole vectors.
fn product<'a>(
    isa: Isa,
    a: impl Fn(usize) -> Factor<'a> + Sync,
    b: &[f32],
    [rows, columns]: [usize; 2],
    start: Option<&[f32]>,
) -> Vec<f32> {
    let padded = columns.next_multiple_of(LANES);
    let mut c = vec![0.0; rows * columns];
    c.par_chunks_mut(ROWS * columns).enumerate().for_each(|(block, c)| {
        let rows = c.len() / columns;
        let mut wide = Scratch::zeroed(rows * padded);
        if let Some(start) = start {
            wide.chunks_exact_mut(padded).for_each(|row| row[..columns].copy_from_slice(start));
        }
        let result = Target::onto(&mut wide, padded);
        product::product(isa, a(block * ROWS), b, [rows, padded], result);
        for (row, wide) in c.chunks_exact_mut(columns).zip(wide.chunks_exact(padded)) {
            row.copy_from_slice(&wide[..columns]);
        }
    });
    c
}

/// A matrix with rows padded to whole vectors. The padding has arbitrary values.
fn padded_rows(matrix: &[f32], columns: usize) -> Scratch {
    let padded = columns.next_multiple_of(LANES);
    let mut wide = Scratch::new(matrix.len() / columns * padded);
    for (row, wide) in matrix.chunks_exact(columns).zip(wide.chunks_exact_mut(padded)) {
        wide[..columns].copy_from_slice(row);
    }
    wide
}

#[derive(Clone, Copy, Debug)]
struct Linear {
    isa: Isa,
}

/// [`crate::linear`] by the kernels.
pub(crate) fn linear(isa: Isa, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let [_, _, outputs] = sizes(x.shape(), weight.shape())?;
    let _span = trace_span!("linear, forward").entered();
    if bias.dims() != [outputs] {
        bail!("linear: {outputs} outputs need a bias of shape [{outputs}], got {:?}", bias.dims());
    }
    apply(Linear { isa }, &[&x.contiguous()?, &weight.contiguous()?, &bias.contiguous()?])
}

/// The numbers of rows, inputs and outputs.
fn sizes(x: &Shape, weight: &Shape) -> Result<[usize; 3]> {
    match (x.dims(), weight.dims()) {
        (&[rows, inputs], &[outputs, expected])
            if inputs == expected && rows * inputs * outputs > 0 =>
        {
            Ok([rows, inputs, outputs])
        }
        _ => bail!(
            "linear: expected non-empty x (N, Din) and weight (Dout, Din), got {x:?} and {weight:?}"
        ),
    }
}

impl MapOp for Linear {
    const NAME: &'static str = "diffusion-linear";

    fn forward(&self, arguments: &[Argument<'_>]) -> Result<(CpuStorage, Shape)> {
        let [rows, inputs, outputs] = sizes(arguments[0].1.shape(), arguments[1].1.shape())?;
        let (x, w, b) = (elements(arguments[0])?, elements(arguments[1])?, elements(arguments[2])?);
        // Transposes the weights, as if outputs were channels and inputs pixels.
        let w = channels_last(self.isa, w, [outputs, inputs]);
        let a = |row: usize| Factor::matrix(&x[row * inputs..], inputs, inputs);
        let y = product(self.isa, a, &w, [rows, outputs], Some(b));
        Ok(output(y, (rows, outputs)))
    }

    fn backward(&self, arguments: &[&Tensor], dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, w) = (arguments[0], arguments[1]);
        let [rows, inputs, outputs] = sizes(x.shape(), w.shape())?;
        let _span = trace_span!("linear, backward").entered();
        let (dx, dw, db) = with_elements([x, w, dy], |[x_data, w, dy]| {
            let by_row = |row: usize| Factor::matrix(&dy[row * outputs..], outputs, outputs);
            let by_column = |column: usize| Factor::transposed(&dy[column..], outputs, rows);
            let dx = x
                .track_op()
                .then(|| product(self.isa, by_row, &padded_rows(w, inputs), [rows, inputs], None));
            let dw =
                product(self.isa, by_column, &padded_rows(x_data, inputs), [outputs, inputs], None);
            let mut db = vec![0.0; outputs];
            for row in dy.chunks_exact(outputs) {
                for (db, dy) in db.iter_mut().zip(row) {
                    *db += dy;
                }
            }
            Ok((dx, dw, db))
        })?;
        let dx = dx.map(|dx| Tensor::from_vec(dx, x.shape(), &Device::Cpu)).transpose()?;
        let dw = Tensor::from_vec(dw, w.shape(), &Device::Cpu)?;
        Ok(vec![dx, Some(dw), Some(Tensor::from_vec(db, outputs, &Device::Cpu)?)])
    }
}
