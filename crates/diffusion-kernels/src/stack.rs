//! Maps stacked channel on channel.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::fresh::Fresh;
use crate::isa::Isa;
use crate::map::{Map, Node, token};

/// The channels of `a` and then those of `b`, which are of the same size otherwise, copied into one map.
pub(crate) fn stacked(isa: Isa, a: &Node, b: &Node) -> Result<Node> {
    let ([n, h, w, ca], [.., cb]) = (a.map.dims, b.map.dims);
    let mut values = Fresh::recycled(n * h * w * (ca + cb));
    let given = a.map.values.par_chunks_exact(w * ca).zip(b.map.values.par_chunks_exact(w * cb));
    values.par_chunks_mut(w * (ca + cb)).zip(given).for_each(|(y, (a, b))| {
        for (y, (a, b)) in y.chunks_exact_mut(ca + cb).zip(a.chunks_exact(ca).zip(b.chunks_exact(cb))) {
            y[..ca].copy_from_slice(a);
            y[ca..].copy_from_slice(b);
        }
    });
    let map = Map::new(values.keep(), [n, h, w, ca + cb]);
    Node::new(map, [a, b], &[], |[token_a, token_b], y| {
        token_a.apply_op2(&token_b, Stack { isa, parts: [a.map.clone(), b.map.clone()], y: y.clone() })
    })
}

/// Divides a stack's gradient.
struct Stack {
    isa: Isa,
    parts: [Arc<Map>; 2],
    y: Arc<Map>,
}

impl CustomOp2 for Stack {
    fn name(&self) -> &'static str {
        "diffusion-stack"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(token())
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dtoken: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = self.y.take_gradient(dtoken)?;
        let channels = self.y.dims[3];
        let part = |part: &Map, first: usize, token: &Tensor| {
            part.lead_back(self.isa, token, || {
                let [_, _, width, own] = part.dims;
                let mut dx = Fresh::recycled(part.values.len());
                dx.par_chunks_mut(width * own).zip(gradient.par_chunks_exact(width * channels)).for_each(
                    |(dx, dy)| {
                        for (dx, dy) in dx.chunks_exact_mut(own).zip(dy.chunks_exact(channels)) {
                            dx.copy_from_slice(&dy[first..first + own]);
                        }
                    },
                );
                dx.keep()
            })
        };
        let [map_a, map_b] = &self.parts;
        Ok((part(map_a, 0, a)?, part(map_b, map_a.dims[3], b)?))
    }
}
