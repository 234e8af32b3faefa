//! Dropout of a map.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::arith::isa::Isa;
use crate::graph::map::{Map, Node};
use crate::graph::op::MapOp;
use crate::image::mask::DropoutMask;
use crate::memory::buffer::Buffer;
use crate::memory::uninit::UninitVec;

/// Checks that the mask belongs to maps of shape `dims`, [N, C, H, W].
pub(crate) fn check(dims: [usize; 4], mask: &DropoutMask) -> Result<()> {
    if dims != mask.dims() {
        bail!("dropout: a map of shape {dims:?} needs a mask of this shape, got {:?}", mask.dims());
    }
    Ok(())
}

/// Multiplies `x` by the mask.
pub(crate) fn dropout(isa: Isa, x: &Node, mask: &DropoutMask) -> Result<Node> {
    let [n, h, w, c] = x.map.dims;
    check([n, c, h, w], mask)?;
    let _span = trace_span!("dropout, forward", dims = ?x.map.dims).entered();
    let y = Map::new(masked(isa, &x.map.values, c, mask), x.map.dims);
    let x_map = x.map.clone();
    Node::new(y, &[x], &[], |y| Op { isa, mask: mask.clone(), x: x_map, y })
}

fn masked(isa: Isa, x: &[f32], channels: usize, mask: &DropoutMask) -> Buffer {
    let mut y = UninitVec::from_pool(x.len());
    let len = x.len() / mask.dims()[0];
    y.par_chunks_mut(len).zip(x.par_chunks_exact(len)).enumerate().for_each(|(i, (y, x))| {
        y.copy_from_slice(x);
        mask.image(i).apply_dense(isa, channels, y);
    });
    y.into_buffer()
}

/// The backward operation: from `y` to `x`.
struct Op {
    isa: Isa,
    mask: DropoutMask,
    x: Arc<Map>,
    y: Arc<Map>,
}

impl MapOp for Op {
    const NAME: &'static str = "diffusion-dropout";

    fn backward(&self, tokens: &[&Tensor], dtoken: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let dy = self.y.take_gradient(dtoken)?;
        let dx = || masked(self.isa, &dy, self.x.dims[3], &self.mask);
        Ok(vec![self.x.accumulate_gradient(self.isa, tokens[0], dx)?])
    }
}
