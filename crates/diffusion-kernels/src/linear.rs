//! The affine map of rows as a candle operation.

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::isa::Isa;
use crate::micro::{LANES, MR, NR, Operands, Start, Steps, Tile, tile};
use crate::storage::{elements, output, with_elements};

/// A matrix in memory, or its transpose: element (i, j) at `data[i · row + j · column]`.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    fn new(data: &'a [f32], columns: usize) -> Self {
        Self { data, row: columns, column: 1 }
    }

    fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    fn at(&self, i: usize, j: usize) -> f32 {
        self.data[i * self.row + j * self.column]
    }
}

/// `a · b`, (m, k) by (k, n), each sum in order of k and started from `start` of its column.
fn product(isa: Isa, a: Matrix<'_>, b: Matrix<'_>, [m, k, n]: [usize; 3], start: Option<&[f32]>) -> Vec<f32> {
    // [panel of 48 columns][k][48]; the columns past the last are zeros.
    let mut packed = vec![0.0; n.div_ceil(NR) * k * NR];
    packed.par_chunks_exact_mut(k * NR).enumerate().for_each(|(panel, out)| {
        for (i, out) in out.chunks_exact_mut(NR).enumerate() {
            for (j, out) in out.iter_mut().take(n - panel * NR).enumerate() {
                *out = b.at(i, panel * NR + j);
            }
        }
    });
    let steps = Steps::from((0..k).map(|i| (i * NR) as u32).collect::<Vec<_>>());
    let mut c = vec![0.0; m * n];
    c.par_chunks_mut(MR * n).enumerate().for_each(|(block, c)| {
        let rows = c.len() / n;
        let mut packed_a = vec![0.0; k * MR];
        for (i, out) in packed_a.chunks_exact_mut(MR).enumerate() {
            for (r, out) in out.iter_mut().take(rows).enumerate() {
                *out = a.at(block * MR + r, i);
            }
        }
        if let Some(start) = start {
            c.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(start));
        }
        for (panel, b) in packed.chunks_exact(k * NR).enumerate() {
            let cols = (n - panel * NR).min(NR);
            let operands = Operands { a: &packed_a, steps: &steps, b, bases: [0, LANES, 2 * LANES] };
            let tile_of_c = Tile { c: &mut c[panel * NR..], stride: n, rows, cols };
            tile(isa, operands, Start::Tile, tile_of_c);
        }
    });
    c
}

#[derive(Clone, Copy, Debug)]
struct Linear {
    isa: Isa,
}

/// [`crate::linear`] by the kernels.
pub(crate) fn linear(isa: Isa, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let [_, _, outputs] = sizes(x.shape(), weight.shape())?;
    if bias.dims() != [outputs] {
        bail!("linear: a bias of shape {:?} for {outputs} outputs", bias.dims());
    }
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear { isa })
}

/// Rows, inputs and outputs.
fn sizes(x: &Shape, weight: &Shape) -> Result<[usize; 3]> {
    match (x.dims(), weight.dims()) {
        (&[rows, inputs], &[outputs, wanted]) if inputs == wanted && rows * inputs * outputs > 0 => {
            Ok([rows, inputs, outputs])
        }
        _ => bail!(
            "linear wants x (N, Din) and weight (Dout, Din), none of them empty, got {x:?} and {weight:?}"
        ),
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "diffusion-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [rows, inputs, outputs] = sizes(lx.shape(), lw.shape())?;
        let x = Matrix::new(elements(x, lx)?, inputs);
        let w = Matrix::new(elements(w, lw)?, inputs).transposed();
        let y = product(self.isa, x, w, [rows, inputs, outputs], Some(elements(b, lb)?));
        Ok(output(y, (rows, outputs)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [rows, inputs, outputs] = sizes(x.shape(), w.shape())?;
        let (dx, dw, db) = with_elements([x, w, dy], |[x_data, w, dy]| {
            let by_row = Matrix::new(dy, outputs);
            let dx = x
                .track_op()
                .then(|| product(self.isa, by_row, Matrix::new(w, inputs), [rows, outputs, inputs], None));
            let x = Matrix::new(x_data, inputs);
            let dw = product(self.isa, by_row.transposed(), x, [outputs, rows, inputs], None);
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
        Ok((dx, Some(dw), Some(Tensor::from_vec(db, outputs, &Device::Cpu)?)))
    }
}
