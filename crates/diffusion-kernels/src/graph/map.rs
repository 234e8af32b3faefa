//! What layers hand on: images with their channels last, and beside them the gradients that come back.
//!
//! candle's backward pass begins every gradient with zeros and then adds, to a new tensor each time. Of a map, candle's
//! graph holds a token only, a tensor of one number, which says what was made of what and so keeps the order. The
//! images lie beside it; the first gradient to arrive is kept as it is, and the next ones are added in place.
//!
//! Each operation hands the number 1 back to the tokens of what it was made of, so that candle's sum for a token is the
//! number of gradients that this pass has led to its map. A pass that failed halfway leaves its gradients behind; they
//! are noticed by that number.

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
use crate::graph::tasks::current_pass;
use crate::memory::buffer::Buffer;

/// Images (N, H, W, C).
pub(crate) struct Map {
    pub dims: [usize; 4],
    pub values: Buffer,
    /// The sum of the gradients that have arrived and their number, by the pass that is under way: nothing forbids two at
    /// a time.
    gradients: Mutex<HashMap<(ThreadId, u64), (Buffer, usize)>>,
}

/// A map as a step in a computation; without a token if no gradient will be asked for.
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

    /// Floats of a row of pixels.
    pub(crate) fn row(&self) -> usize {
        self.dims[2] * self.dims[3]
    }

    /// Adds to the gradient with respect to this map.
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

    /// The gradient with respect to this map, when all that was made of it has added to it; `dtoken` is the gradient of
    /// its token.
    ///
    /// # Errors
    /// No gradient has arrived, or more than of this pass.
    pub(crate) fn take_gradient(&self, dtoken: &Tensor) -> Result<Buffer> {
        let expected = dtoken.to_vec1::<f32>()?.first().copied().unwrap_or_default();
        match self.gradients().remove(&current_pass()) {
            Some((gradient, count)) if count as f32 == expected => Ok(gradient),
            Some(_) => bail!(
                "a map of {:?} still holds gradients of a backward pass that failed; compute it anew",
                self.dims
            ),
            None => bail!("no gradient has reached a map of {:?}", self.dims),
        }
    }

    /// Adds to the gradient with respect to this map if its `token` is tracked, and gives the token's.
    pub(crate) fn lead_back(
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
    /// A map that was made of `sources` and `parameters`. If any of those needs a gradient, `op` is applied,
    /// which leads it back. Its arguments are the tokens of `sources` and then the `parameters`.
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

    /// Whether a gradient is wanted.
    pub(crate) fn is_tracked(&self) -> bool {
        self.token.as_ref().is_some_and(Tensor::track_op)
    }

    pub(crate) fn token(&self) -> Option<&Tensor> {
        self.token.as_ref()
    }
}
