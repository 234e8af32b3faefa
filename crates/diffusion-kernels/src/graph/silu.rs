//! SiLU as a candle operation.

use candle_core::{CpuStorage, Device, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::arith::isa::{Isa, vectorised};
use crate::arith::vector::{sigmoid, silu_slope};
use crate::graph::op::{Argument, MapOp, apply};
use crate::memory::storage::{elements, output, with_elements};
use crate::memory::uninit::UninitVec;

/// The number of elements of one task.
const CHUNK: usize = 1 << 14;

vectorised! {
    fn forward(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid::<FMA>(x);
        }
    }
}

vectorised! {
    fn backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = dy * silu_slope::<FMA>(x);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Silu {
    isa: Isa,
}

/// [`crate::silu`] by the kernels.
pub(crate) fn silu(isa: Isa, x: &Tensor) -> Result<Tensor> {
    apply(Silu { isa }, &[&x.contiguous()?])
}

impl MapOp for Silu {
    const NAME: &'static str = "diffusion-silu";

    fn forward(&self, arguments: &[Argument<'_>]) -> Result<(CpuStorage, Shape)> {
        let (_, layout) = arguments[0];
        let x = elements(arguments[0])?;
        let mut y = UninitVec::new(x.len());
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| forward(self.isa, x, y));
        Ok(output(y.into_vec(), layout.shape()))
    }

    fn backward(&self, arguments: &[&Tensor], dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = arguments[0];
        let dx = with_elements([x, dy], |[x, dy]| {
            let mut dx = UninitVec::new(x.len());
            dx.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .zip(dy.par_chunks(CHUNK))
                .for_each(|((dx, x), dy)| backward(self.isa, x, dy, dx));
            Ok(dx.into_vec())
        })?;
        Ok(vec![Some(Tensor::from_vec(dx, x.shape(), &Device::Cpu)?)])
    }
}
