//! x · sigmoid(x) as a candle operation.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::fresh::Fresh;
use crate::isa::{Isa, vectorised};
use crate::storage::{elements, output, with_elements};
use crate::vector::{sigmoid, silu_slope};

/// Elements of one task.
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
    x.contiguous()?.apply_op1(Silu { isa })
}

impl CustomOp1 for Silu {
    fn name(&self) -> &'static str {
        "diffusion-silu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(x, layout)?;
        let mut y = Fresh::new(x.len());
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| forward(self.isa, x, y));
        Ok(output(y.finish(), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_elements([x, dy], |[x, dy]| {
            let mut dx = Fresh::new(x.len());
            dx.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .zip(dy.par_chunks(CHUNK))
                .for_each(|((dx, x), dy)| backward(self.isa, x, dy, dx));
            Ok(dx.finish())
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), &Device::Cpu)?))
    }
}
