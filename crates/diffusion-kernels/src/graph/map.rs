//! A batch of images outside of candle's autograd graph, with its gradient, and its token in the
//! graph.

// candle's backward pass starts each gradient with zeros and adds to a new tensor each time. To
// avoid this for large maps, candle only sees a token, a tensor of one number:
//
//     graph     token(x) ── op ── token(y)        one node per operation, so candle keeps the order
//     Map x     values (N, H, W, C), and a table {(thread, pass): (sum of gradients, their number)}
//
//     forward   y.values = kernel(x.values);  token(y) = op(token(x), parameters) = [0]
//     backward  of op, called by candle with d = the gradient of token(y):
//         dy = y.take_gradient(d)                removes the sum; fails unless its number is d
//         x.accumulate_gradient(dx)              stores dx, or adds the stored sum to it in place
//         return 1 for token(x)                  candle adds up these ones
//
// 1. candle visits a node after all nodes that use it. When it visits y, all gradients of y have
//    arrived.
// 2. The gradient of a token counts the gradients sent to its map. A sum of ones is exact in f32 up
//    to 2²⁴, so `take_gradient` can compare it with the number of gradients that arrived.
// 3. A pass that fails halfway leaves gradients behind. A later pass with the same key would add
//    its own to them. Then the two numbers differ, and `take_gradient` removes the sum and returns
//    an error.
// 4. Gradients are stored by thread and pass, since several passes may use one graph at a time.
//    candle runs a pass on one thread. A waiting pool thread may start another pass; `in_pool`
//    gives each its own number.
// 5. The first gradient is stored without a copy. Later sums add the stored one to the new buffer.
// 6. Without a tracked source or parameter there is no token and no operation, so nothing keeps the
//    map for a backward pass.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::arith::isa::Isa;
use crate::arith::vector::add;
use crate::graph::op::{MapOp, apply};
use crate::graph::pass::current_pass;
use crate::memory::buffer::Buffer;

/// A batch of images with channels last.
pub(crate) struct Map {
    /// N, H, W and C.
    pub dims: [usize; 4],
    pub values: Buffer,
    /// For each running backward pass, the sum of the gradients that have arrived, and their
    /// number.
    gradients: Mutex<HashMap<(ThreadId, u64), (Buffer, usize)>>,
}

/// A map with its token in candle's graph. Without a token, it gets no gradient.
#[derive(Clone)]
pub(crate) struct Node {
    pub map: Arc<Map>,
    token: Option<Tensor>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("dims", &self.map.dims)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

impl Map {
    pub(crate) fn new(values: Buffer, dims: [usize; 4]) -> Arc<Self> {
        Arc::new(Self { dims, values, gradients: Mutex::default() })
    }

    /// The number of floats in a row of pixels.
    pub(crate) fn row(&self) -> usize {
        self.dims[2] * self.dims[3]
    }

    /// Adds to the gradient of this map in the current pass.
    fn add_gradient(&self, isa: Isa, gradient: Buffer) {
        const CHUNK: usize = 1 << 14;
        let pass = current_pass();
        let (mut sum, mut count) = (gradient, 1);
        let arrived = self.gradients().remove(&pass);
        if let Some((arrived, number)) = arrived {
            let _span = trace_span!("add gradients").entered();
            let chunks = sum.par_chunks_mut(CHUNK).zip(arrived.par_chunks(CHUNK));
            chunks.for_each(|(sum, arrived)| add(isa, arrived, sum));
            count += number;
        }
        self.gradients().insert(pass, (sum, count));
    }

    /// Removes and returns the gradient of this map, after all operations that use it have added to
    /// it. `dtoken` is the gradient of its token.
    ///
    /// # Errors
    /// If no gradient has arrived, or some are left from a pass that failed.
    pub(crate) fn take_gradient(&self, dtoken: &Tensor) -> Result<Buffer> {
        let expected = dtoken.to_vec1::<f32>()?.first().copied().unwrap_or_default();
        match self.gradients().remove(&current_pass()) {
            Some((gradient, count)) if count as f32 == expected => Ok(gradient),
            Some(_) => bail!(
                "a map of shape {:?} still holds gradients of a backward pass that failed; compute the map again",
                self.dims
            ),
            None => bail!("no gradient has reached a map of shape {:?}", self.dims),
        }
    }

    /// If `token` is tracked, adds to the gradient of this map and returns the gradient of the
    /// token, 1.
    pub(crate) fn accumulate_gradient(
        &self,
        isa: Isa,
        token: &Tensor,
        gradient: impl FnOnce() -> Buffer,
    ) -> Result<Option<Tensor>> {
        if !token.track_op() {
            return Ok(None);
        }
        self.add_gradient(isa, gradient());
        Ok(Some(Tensor::ones(1, DType::F32, &Device::Cpu)?))
    }

    fn gradients(&self) -> MutexGuard<'_, HashMap<(ThreadId, u64), (Buffer, usize)>> {
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// The node of a `map` that was computed from `sources` and `parameters`. If any of these needs
    /// a gradient, `op` is added to candle's graph. Its arguments are the tokens of `sources`, then
    /// the `parameters`.
    pub(crate) fn new<O: MapOp>(
        map: Arc<Map>,
        sources: &[&Self],
        parameters: &[&Tensor],
        op: impl FnOnce(Arc<Map>) -> O,
    ) -> Result<Self> {
        let tracked = sources.iter().any(|source| source.is_tracked());
        if !tracked && !parameters.iter().any(|parameter| parameter.track_op()) {
            return Ok(Self { map, token: None });
        }
        let untracked = || Tensor::zeros(1, DType::F32, &Device::Cpu);
        let tokens = sources.iter().map(|source| source.token.clone().map_or_else(untracked, Ok));
        let tokens = tokens.collect::<Result<Vec<_>>>()?;
        let arguments: Vec<&Tensor> = tokens.iter().chain(parameters.iter().copied()).collect();
        let token = Some(apply(op(map.clone()), &arguments)?);
        Ok(Self { map, token })
    }

    /// Whether a gradient is needed.
    pub(crate) fn is_tracked(&self) -> bool {
        self.token.as_ref().is_some_and(Tensor::track_op)
    }

    pub(crate) fn token(&self) -> Option<&Tensor> {
        self.token.as_ref()
    }
}
