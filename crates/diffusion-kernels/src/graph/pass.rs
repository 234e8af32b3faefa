//! Backward passes: their identity, and the gradients of variables.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, TensorId};

use crate::graph::scope::{Scope, within};

/// A pass that runs on this thread.
struct Pass {
    number: u64,
    /// The gradients of variables so far, if the pass is that of [`backward`].
    gradients: Option<HashMap<TensorId, Tensor>>,
}

thread_local! {
    /// The passes that this thread has started, the latest last.
    static PASSES: RefCell<Vec<Pass>> = const { RefCell::new(Vec::new()) };
}

/// The identity of the current backward pass. candle runs a pass on one thread. But a pool thread
/// that waits for others may start a second pass, so [`in_pool`](crate::in_pool) numbers the
/// passes.
pub(crate) fn current_pass() -> (ThreadId, u64) {
    let number = PASSES.with_borrow(|passes| passes.last().map_or(0, |pass| pass.number));
    (thread::current().id(), number)
}

/// Runs `f` as a pass of its own, with these settings.
pub(crate) fn in_pass<R>(scope: Scope, f: impl FnOnce() -> R) -> R {
    let _running = Running::begin(None);
    within(scope, f)
}

/// Ends a pass when dropped, also by a panic.
struct Running;

impl Running {
    fn begin(gradients: Option<HashMap<TensorId, Tensor>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        PASSES.with_borrow_mut(|passes| passes.push(Pass { number, gradients }));
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        PASSES.with_borrow_mut(Vec::pop);
    }
}

/// Like [`Tensor::backward`], with the same gradients, but faster for networks with many
/// parameters.
///
/// candle adds each gradient to a tensor of zeros and stores the sum in a new tensor. Here the
/// kernels hand the gradients of variables over as they are.
///
/// # Errors
/// An error of the device, or of an operation's backward pass.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let _running = Running::begin(Some(HashMap::new()));
    let mut store = loss.backward()?;
    let gradients = PASSES.with_borrow_mut(|passes| passes.last_mut()?.gradients.take());
    for (id, gradient) in gradients.unwrap_or_default() {
        // Operations of candle may have used the variable, too.
        let sum = match store.get_id(id) {
            Some(other) => (other + gradient)?,
            None => gradient,
        };
        store.insert_id(id, sum);
    }
    Ok(store)
}

/// Adds to the gradient of `argument` in the pass of [`backward`], if it is a variable. Otherwise
/// returns the gradient, for candle.
pub(crate) fn hand_over(argument: &Tensor, gradient: Tensor) -> Result<Option<Tensor>> {
    if !argument.is_variable() {
        return Ok(Some(gradient));
    }
    PASSES.with_borrow_mut(|passes| {
        let Some(gradients) = passes.last_mut().and_then(|pass| pass.gradients.as_mut()) else {
            return Ok(Some(gradient));
        };
        let sum = match gradients.remove(&argument.id()) {
            Some(other) => (other + gradient)?,
            None => gradient,
        };
        gradients.insert(argument.id(), sum);
        Ok(None)
    })
}
