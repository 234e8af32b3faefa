//! Operations between whole channels: a number added to each, and two stacks put together.

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

#[derive(Clone, Copy, Debug)]
struct Cat;

/// [`crate::cat_channels`] by the kernels.
pub(crate) fn cat_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check_cat(a, b)?;
    a.contiguous()?.apply_op2(&b.contiguous()?, Cat)
}

pub(crate) fn check_cat(a: &Tensor, b: &Tensor) -> Result<()> {
    let (da, db) = (a.dims(), b.dims());
    let fit = da.len() >= 2 && da.len() == db.len() && da[0] == db[0] && da[2..] == db[2..];
    if !fit || a.elem_count() * b.elem_count() == 0 {
        bail!(
            "cat_channels wants tensors (N, C, …) that differ in C only, got {:?} and {:?}",
            a.shape(),
            b.shape()
        );
    }
    Ok(())
}

impl CustomOp2 for Cat {
    fn name(&self) -> &'static str {
        "diffusion-cat-channels"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut shape = la.dims().to_vec();
        shape[1] += lb.dims()[1];
        let (a, b) = (elements(a, la)?, elements(b, lb)?);
        let (size_a, size_b) = (a.len() / shape[0], b.len() / shape[0]);
        let mut y = Fresh::new(a.len() + b.len());
        y.par_chunks_mut(size_a + size_b)
            .zip(a.par_chunks_exact(size_a).zip(b.par_chunks_exact(size_b)))
            .for_each(|(y, (a, b))| {
                y[..size_a].copy_from_slice(a);
                y[size_a..].copy_from_slice(b);
            });
        Ok(output(y.finish(), shape))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let images = a.dims()[0];
        let (size_a, size_b) = (a.elem_count() / images, b.elem_count() / images);
        let part = |of: &Tensor, begin: usize, size: usize| -> Result<Option<Tensor>> {
            if !of.track_op() {
                return Ok(None);
            }
            let gradient = with_elements([dy], |[dy]| {
                let mut gradient = Fresh::new(of.elem_count());
                gradient
                    .par_chunks_mut(size)
                    .zip(dy.par_chunks_exact(size_a + size_b))
                    .for_each(|(gradient, dy)| gradient.copy_from_slice(&dy[begin..begin + size]));
                Ok(gradient.finish())
            })?;
            Ok(Some(Tensor::from_vec(gradient, of.shape(), &Device::Cpu)?))
        };
        Ok((part(a, 0, size_a)?, part(b, size_a, size_b)?))
    }
}
