//! A number added to each channel.

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::fresh::Fresh;
use crate::isa::{Isa, vectorised};
use crate::storage::{elements, output, with_elements};
use crate::vector;

vectorised! {
    fn add(x: &[f32], number: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x + number;
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct AddEmbedding {
    isa: Isa,
}

/// [`crate::add_channel_embedding`] by the kernels.
pub(crate) fn add_channel_embedding(isa: Isa, x: &Tensor, embedding: &Tensor) -> Result<Tensor> {
    check_embedding(x, embedding)?;
    x.contiguous()?.apply_op2(&embedding.contiguous()?, AddEmbedding { isa })
}

pub(crate) fn check_embedding(x: &Tensor, embedding: &Tensor) -> Result<()> {
    if x.rank() < 2 || x.elem_count() == 0 || x.dims()[..2] != *embedding.dims() {
        bail!(
            "add_channel_embedding wants x (N, C, …) and embedding (N, C), got {:?} and {:?}",
            x.shape(),
            embedding.shape()
        );
    }
    Ok(())
}

impl CustomOp2 for AddEmbedding {
    fn name(&self) -> &'static str {
        "diffusion-add-channel-embedding"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        e: &CpuStorage,
        le: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, e) = (elements(x, lx)?, elements(e, le)?);
        let plane = x.len() / e.len();
        let mut y = Fresh::new(x.len());
        y.par_chunks_mut(plane)
            .zip(x.par_chunks_exact(plane).zip(e))
            .for_each(|(y, (x, &e))| add(self.isa, x, e, y));
        Ok(output(y.finish(), lx.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        e: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let de = with_elements([dy], |[dy]| {
            let planes = dy.par_chunks_exact(dy.len() / e.elem_count());
            Ok(planes.map(|dy| vector::sum(self.isa, dy)).collect::<Vec<_>>())
        })?;
        Ok((Some(dy.clone()), Some(Tensor::from_vec(de, e.shape(), &Device::Cpu)?)))
    }
}
