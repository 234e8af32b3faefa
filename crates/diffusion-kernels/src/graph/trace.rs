//! Records of the operations that a network executes, and of the memory they use.

use std::cell::RefCell;

use candle_core::{Result, Tensor, TensorId};

use crate::FeatureMap;
use crate::graph::scope::with_whole_batches;
use crate::memory::buffer;

/// One operation of a forward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The weights of its convolutions (in a residual block, without the skip's), of its linear
    /// layer or of its normalisation. Empty for operations without parameters.
    pub weights: Vec<TensorId>,
    /// The shape of its result, `[N, C, H, W]`; `[N, C, 1, 1]` for a linear layer.
    pub output: [usize; 4],
    /// The number of multiply-adds for the whole batch. Normalisations and activations count as 0.
    pub multiply_adds: u64,
    /// The bytes of feature maps that stay in memory after it: its result, and what its backward
    /// pass needs.
    pub kept_bytes: usize,
}

thread_local! {
    static RECORD: RefCell<Option<Vec<Operation>>> = const { RefCell::new(None) };
}

/// Runs `f` and records the operations that it calls on this thread.
///
/// Networks move their work to a thread of the pool, so call this inside of
/// [`in_pool`](crate::in_pool). An operation composed of others is recorded as one. Bytes are
/// counted for the whole process and for the kernels' buffers only, without candle's own tensors.
pub fn traced<R>(f: impl FnOnce() -> R) -> (R, Vec<Operation>) {
    let outer = RECORD.replace(Some(Vec::new()));
    let result = with_whole_batches(f);
    (result, RECORD.replace(outer).unwrap_or_default())
}

/// Runs `f` and returns the peak number of bytes of feature maps during `f`, above the number
/// before it. Networks compute whole batches in `f`, as [`in_pool`](crate::in_pool) does.
///
/// Bytes are counted for the whole process and for the kernels' buffers only.
pub fn peak_bytes<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = buffer::start_peak();
    let result = with_whole_batches(f);
    (result, buffer::peak().saturating_sub(before))
}

/// Calls `f` and records it as one operation if [`traced`] is active. `describe` returns its
/// weights and multiply-adds from the shape of the result.
pub(crate) fn operation(
    f: impl FnOnce() -> Result<FeatureMap>,
    describe: impl FnOnce([usize; 4]) -> (Vec<TensorId>, u64),
) -> Result<FeatureMap> {
    record(f, |map| {
        let output = map.dims();
        (output, describe(output))
    })
}

/// Like [`operation`], for a linear layer.
pub(crate) fn linear(
    f: impl FnOnce() -> Result<Tensor>,
    x: &Tensor,
    weight: &Tensor,
) -> Result<Tensor> {
    record(f, |rows| {
        let [n, outputs] = [0, 1].map(|i| rows.dims().get(i).copied().unwrap_or(1));
        let inputs = x.dims().get(1).copied().unwrap_or(1);
        ([n, outputs, 1, 1], (vec![weight.id()], (n * inputs * outputs) as u64))
    })
}

fn record<T>(
    f: impl FnOnce() -> Result<T>,
    describe: impl FnOnce(&T) -> ([usize; 4], (Vec<TensorId>, u64)),
) -> Result<T> {
    // The list is taken away meanwhile, so that operations inside of `f` are not recorded.
    let Some(mut operations) = RECORD.take() else { return f() };
    let before = buffer::live();
    let result = f();
    if let Ok(result) = &result {
        let kept_bytes = buffer::live().saturating_sub(before);
        let (output, (weights, multiply_adds)) = describe(result);
        operations.push(Operation { weights, output, multiply_adds, kept_bytes });
    }
    RECORD.set(Some(operations));
    result
}
