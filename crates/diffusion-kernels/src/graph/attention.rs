//! Attention as a candle operation.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::arith::isa::Isa;
use crate::graph::map::{Map, Node};
use crate::graph::op::MapOp;
use crate::image::attention::{Sizes, backward, forward};
use crate::memory::uninit::UninitVec;

/// Checks the shapes (N, H, W, C) of queries, keys and values, and the number of heads.
pub(crate) fn check(dims: [[usize; 4]; 3], heads: usize) -> Result<()> {
    let [q, k, v] = dims;
    if q != k || q != v {
        bail!(
            "attention: queries, keys and values must have the same shape, got {q:?}, {k:?} and {v:?}"
        );
    }
    let channels = q[3];
    if heads == 0 || !channels.is_multiple_of(heads) {
        bail!("attention: {channels} channels do not divide into {heads} heads");
    }
    Ok(())
}

/// Attention of `q` over `k` and `v` with `heads` heads.
pub(crate) fn attention(isa: Isa, [q, k, v]: [&Node; 3], heads: usize) -> Result<Node> {
    check([q.map.dims, k.map.dims, v.map.dims], heads)?;
    let sizes = Sizes::new(q.map.dims, heads);
    let _span = trace_span!("attention, forward", dims = ?q.map.dims).entered();
    let mut y = UninitVec::from_pool(q.map.values.len());
    let len = sizes.len();
    let images = q.map.values.par_chunks_exact(len).zip(k.map.values.par_chunks_exact(len));
    y.par_chunks_mut(len)
        .zip(images.zip(v.map.values.par_chunks_exact(len)))
        .for_each(|(y, ((q, k), v))| forward(isa, sizes, [q, k, v], y));
    let parts = [q, k, v].map(|node| node.map.clone());
    Node::new(Map::new(y.into_buffer(), q.map.dims), &[q, k, v], &[], |y| Op {
        isa,
        sizes,
        parts,
        y,
    })
}

/// The backward operation: from `y` to queries, keys and values.
struct Op {
    isa: Isa,
    sizes: Sizes,
    parts: [Arc<Map>; 3],
    y: Arc<Map>,
}

impl MapOp for Op {
    const NAME: &'static str = "diffusion-attention";

    fn backward(&self, tokens: &[&Tensor], dtoken: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let &Self { isa, sizes, ref parts, ref y } = self;
        let _span = trace_span!("attention, backward", dims = ?y.dims).entered();
        let dy = y.take_gradient(dtoken)?;
        let len = sizes.len();
        let [map_q, map_k, map_v] = parts;
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| UninitVec::from_pool(dy.len()));
        let images = map_q.values.par_chunks_exact(len).zip(map_k.values.par_chunks_exact(len));
        let images = images.zip(map_v.values.par_chunks_exact(len)).zip(dy.par_chunks_exact(len));
        dq.par_chunks_mut(len)
            .zip(dk.par_chunks_mut(len).zip(dv.par_chunks_mut(len)))
            .zip(images)
            .for_each(|((dq, (dk, dv)), (((q, k), v), dy))| {
                backward(isa, sizes, [q, k, v], dy, [dq, dk, dv]);
            });
        let gradients = parts.iter().zip(tokens).zip([dq, dk, dv]);
        gradients
            .map(|((map, token), gradient)| {
                map.accumulate_gradient(isa, token, || gradient.into_buffer())
            })
            .collect()
    }
}
