//! Maps stacked channel on channel.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::arith::isa::Isa;
use crate::graph::map::{Map, Node};
use crate::graph::op::MapOp;
use crate::memory::fresh::Fresh;

/// The channels of `a` and then those of `b`, which are of the same size otherwise, copied into one map.
pub(crate) fn stacked(isa: Isa, a: &Node, b: &Node) -> Result<Node> {
    let ([n, h, w, ca], [.., cb]) = (a.map.dims, b.map.dims);
    let mut values = Fresh::recycled(n * h * w * (ca + cb));
    let given = a.map.values.par_chunks_exact(w * ca).zip(b.map.values.par_chunks_exact(w * cb));
    values.par_chunks_mut(w * (ca + cb)).zip(given).for_each(|(y, (a, b))| {
        for (y, (a, b)) in
            y.chunks_exact_mut(ca + cb).zip(a.chunks_exact(ca).zip(b.chunks_exact(cb)))
        {
            y[..ca].copy_from_slice(a);
            y[ca..].copy_from_slice(b);
        }
    });
    let map = Map::new(values.keep(), [n, h, w, ca + cb]);
    Node::new(map, &[a, b], &[], |y| Stack { isa, parts: [a.map.clone(), b.map.clone()], y })
}

/// Divides a stack's gradient.
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
            part.lead_back(self.isa, token, || {
                let [_, _, width, own] = part.dims;
                let mut dx = Fresh::recycled(part.values.len());
                dx.par_chunks_mut(width * own)
                    .zip(gradient.par_chunks_exact(width * channels))
                    .for_each(|(dx, dy)| {
                        for (dx, dy) in dx.chunks_exact_mut(own).zip(dy.chunks_exact(channels)) {
                            dx.copy_from_slice(&dy[first..first + own]);
                        }
                    });
                dx.keep()
            })
        };
        let [a, b] = &self.parts;
        Ok(vec![part(a, 0, tokens[0])?, part(b, a.dims[3], tokens[1])?])
    }
}
