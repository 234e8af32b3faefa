//! What a network computes, operation by operation, for those who want to know.

use std::cell::RefCell;

use candle_core::{Result, Tensor, TensorId};

use crate::FeatureMap;
use crate::memory::buffer;

/// One operation of a forward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The convolutions' weights that it used, or a linear layer's; none for what has no parameters.
    pub weights: Vec<TensorId>,
    /// N, C, H and W of its result; (N, C, 1, 1) for rows of numbers.
    pub output: [usize; 4],
    /// Products that are added up, for the whole batch. Normalisations and activations are not counted.
    pub multiply_adds: u64,
    /// Bytes of feature maps that it left behind: its result, and what it keeps for its backward pass.
    pub kept_bytes: usize,
}

thread_local! {
    static RECORD: RefCell<Option<Vec<Operation>>> = const { RefCell::new(None) };
}

/// Runs `f` and writes down the operations that it calls on this thread: run it inside of [`in_pool`](crate::in_pool), as
/// networks do. Of an operation that is made of others, they are not listed. Bytes are those of the whole process, and of
/// the kernels: candle's own operations count for nothing.
pub fn traced<R>(f: impl FnOnce() -> R) -> (R, Vec<Operation>) {
    let outer = RECORD.replace(Some(Vec::new()));
    let result = f();
    (result, RECORD.replace(outer).unwrap_or_default())
}

/// Runs `f` and says how many bytes of feature maps there were at its fullest moment beyond those before it: of the whole
/// process, and of the kernels.
pub fn peak_bytes<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = buffer::start_peak();
    let result = f();
    (result, buffer::peak().saturating_sub(before))
}

/// Calls `f` as one operation, if anybody wants to know: `about` gives its weights and multiply-adds from its result's sizes.
pub(crate) fn operation(
    f: impl FnOnce() -> Result<FeatureMap>,
    about: impl FnOnce([usize; 4]) -> (Vec<TensorId>, u64),
) -> Result<FeatureMap> {
    noted(f, |map| {
        let output = map.dims();
        (output, about(output))
    })
}

/// As [`operation`], for rows of numbers.
pub(crate) fn linear(
    f: impl FnOnce() -> Result<Tensor>,
    x: &Tensor,
    weight: &Tensor,
) -> Result<Tensor> {
    noted(f, |rows| {
        let [n, outputs] = [0, 1].map(|i| rows.dims().get(i).copied().unwrap_or(1));
        let inputs = x.dims().get(1).copied().unwrap_or(1);
        ([n, outputs, 1, 1], (vec![weight.id()], (n * inputs * outputs) as u64))
    })
}

fn noted<T>(
    f: impl FnOnce() -> Result<T>,
    about: impl FnOnce(&T) -> ([usize; 4], (Vec<TensorId>, u64)),
) -> Result<T> {
    // Whoever records takes the list away meanwhile, so that the operations inside are not listed.
    let Some(mut operations) = RECORD.take() else { return f() };
    let before = buffer::live();
    let result = f();
    if let Ok(result) = &result {
        let kept_bytes = buffer::live().saturating_sub(before);
        let (output, (weights, multiply_adds)) = about(result);
        operations.push(Operation { weights, output, multiply_adds, kept_bytes });
    }
    RECORD.set(Some(operations));
    result
}
