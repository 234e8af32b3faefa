//! What layers hand on: images with their channels last, and beside them the gradients that come back.
//!
//! candle's backward pass begins every gradient with zeros and then adds, to a new tensor each time. Of a map, candle's
//! graph holds a token only, a tensor of one number, which says what was made of what and so keeps the order. The
//! images lie beside it; the first gradient to arrive is kept as it is, and the next ones are added in place.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use candle_core::{CpuStorage, DType, Device, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::buffer::Buffer;
use crate::isa::Isa;
use crate::vector::add;

/// Images (N, H, W, C).
pub(crate) struct Map {
    pub dims: [usize; 4],
    pub values: Buffer,
    /// The gradients that have arrived, by the thread whose backward pass is under way: a pass stays on one thread, and
    /// nothing forbids two at a time.
    gradients: Mutex<HashMap<ThreadId, Buffer>>,
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
    pub(crate) fn add_gradient(&self, isa: Isa, gradient: Buffer) {
        const CHUNK: usize = 1 << 14;
        let mut sum = gradient;
        let _span = trace_span!("add gradients").entered();
        if let Some(arrived) = self.gradients().remove(&std::thread::current().id()) {
            let chunks = sum.par_chunks_mut(CHUNK).zip(arrived.par_chunks(CHUNK));
            chunks.for_each(|(sum, arrived)| add(isa, arrived, sum));
        }
        self.gradients().insert(std::thread::current().id(), sum);
    }

    /// The gradient with respect to this map, when all that was made of it has added to it.
    ///
    /// # Errors
    /// No gradient has arrived.
    pub(crate) fn take_gradient(&self) -> Result<Buffer> {
        match self.gradients().remove(&std::thread::current().id()) {
            Some(gradient) => Ok(gradient),
            None => bail!("no gradient has reached a map of {:?}", self.dims),
        }
    }

    /// Adds to the gradient with respect to this map if its `token` is tracked, and hands the token's on.
    pub(crate) fn lead_back(
        &self,
        isa: Isa,
        token: &Tensor,
        dtoken: &Tensor,
        gradient: impl FnOnce() -> Buffer,
    ) -> Option<Tensor> {
        token.track_op().then(|| {
            self.add_gradient(isa, gradient());
            dtoken.clone()
        })
    }

    fn gradients(&self) -> MutexGuard<'_, HashMap<ThreadId, Buffer>> {
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// A map that was made of `sources` and `parameters`. If any of those wants a gradient, `record` is called to apply
    /// the candle operation that leads it back, to the tokens of `sources`.
    pub(crate) fn new<const N: usize>(
        map: Arc<Map>,
        sources: [&Self; N],
        parameters: &[&Tensor],
        record: impl FnOnce([Tensor; N], &Arc<Map>) -> Result<Tensor>,
    ) -> Result<Self> {
        let tracked = sources.iter().any(|source| source.is_tracked());
        if !tracked && !parameters.iter().any(|parameter| parameter.track_op()) {
            return Ok(Self { map, token: None });
        }
        let mut tokens = Vec::with_capacity(N);
        for source in sources {
            tokens.push(match &source.token {
                Some(token) => token.clone(),
                None => Tensor::zeros(1, DType::F32, &Device::Cpu)?,
            });
        }
        let token = record(tokens.try_into().expect("one a source"), &map)?;
        Ok(Self { map, token: Some(token) })
    }

    /// Whether a gradient is wanted.
    pub(crate) fn is_tracked(&self) -> bool {
        self.token.as_ref().is_some_and(Tensor::track_op)
    }

    pub(crate) fn token(&self) -> Option<&Tensor> {
        self.token.as_ref()
    }
}

/// What the operations of [`Node::new`] return from their forward passes.
pub(crate) fn token() -> (CpuStorage, Shape) {
    (CpuStorage::F32(vec![0.0]), Shape::from(1))
}
