//! Concatenation of the channels of maps.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::arith::isa::Isa;
use crate::graph::map::{Map, Node};
use crate::graph::op::MapOp;
use crate::memory::uninit::UninitVec;

/// Copies the channels of `a` and then those of `b` into one map. N, H and W must be equal.
pub(crate) fn stacked(isa: Isa, a: &Node, b: &Node) -> Result<Node> {
    let ([n, h, w, ca], [.., cb]) = (a.map.dims, b.map.dims);
    let mut values = UninitVec::from_pool(n * h * w * (ca + cb));
    let rows = a.map.values.par_chunks_exact(w * ca).zip(b.map.values.par_chunks_exact(w * cb));
    values.par_chunks_mut(w * (ca + cb)).zip(rows).for_each(|(y, (a, b))| {
        for (y, (a, b)) in
            y.chunks_exact_mut(ca + cb).zip(a.chunks_exact(ca).zip(b.chunks_exact(cb)))
        {
            y[..ca].copy_from_slice(a);
            y[ca..].copy_from_slice(b);
        }
    });
    let map = Map::new(values.into_buffer(), [n, h, w, ca + cb]);
    Node::new(map, &[a, b], &[], |y| Stack { isa, parts: [a.map.clone(), b.map.clone()], y })
}

/// The backward operation: from the concatenation to its parts.
struct Stack {
    isa: Isa,
    parts: [Arc<Map>; 2],
    y: Arc<Map>,
}

impl MapOp for Stack {
    const NAME: &'static str = "diffusion-stack";

    fn backward(&self, tokens: &[&Tensor], dtoken: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let gradient = self.y.take_gradient(dtoken)?;
        let channels = self.y.dims[3];
        let part = |part: &Map, first: usize, token: &Tensor| {
            part.accumulate_gradient(self.isa, token, || {
                let [_, _, width, part_channels] = part.dims;
                let mut dx = UninitVec::from_pool(part.values.len());
                dx.par_chunks_mut(width * part_channels)
                    .zip(gradient.par_chunks_exact(width * channels))
                    .for_each(|(dx, dy)| {
                        for (dx, dy) in
                            dx.chunks_exact_mut(part_channels).zip(dy.chunks_exact(channels))
                        {
                            dx.copy_from_slice(&dy[first..first + part_channels]);
                        }
                    });
                dx.into_buffer()
            })
        };
        let [a, b] = &self.parts;
        Ok(vec![part(a, 0, tokens[0])?, part(b, a.dims[3], tokens[1])?])
    }
}
