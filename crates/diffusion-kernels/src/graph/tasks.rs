//! Division of work among threads. Results do not depend on the number of threads.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};

use rayon::prelude::*;

use crate::arith::isa::Isa;
use crate::arith::vector::add;
use crate::graph::precision::{autocast, current_precision};
use crate::memory::uninit::UninitVec;

/// The number of images whose weight gradients one task sums. A constant, so that the order of
/// additions is the same for any number of threads.
pub(crate) const CHUNK: usize = 4;

/// The elementwise sum of `partials`, of which the first `len` elements are used, in their order.
pub(crate) fn sum_in_order(
    isa: Isa,
    partials: &[impl Deref<Target = [f32]> + Sync],
    len: usize,
) -> Vec<f32> {
    const CHUNK: usize = 1 << 12;
    let mut sum = UninitVec::new(len);
    sum.par_chunks_mut(CHUNK).enumerate().for_each(|(i, sum)| {
        for partial in partials {
            add(isa, &partial[i * CHUNK..], sum);
        }
    });
    sum.into_vec()
}

thread_local! {
    /// The numbers of the passes that this thread has started, the latest last.
    static PASSES: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The identity of the current backward pass. candle runs a pass on one thread. But a pool thread
/// that waits for others may start a second pass, so [`in_pool`] numbers the passes.
pub(crate) fn current_pass() -> (ThreadId, u64) {
    (thread::current().id(), PASSES.with_borrow(|passes| passes.last().copied().unwrap_or(0)))
}

/// Ends a pass when dropped, also by a panic.
struct Pass;

impl Pass {
    fn begin() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        PASSES.with_borrow_mut(|passes| passes.push(NEXT.fetch_add(1, Ordering::Relaxed)));
        Self
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        PASSES.with_borrow_mut(Vec::pop);
    }
}

/// Runs `f` on a thread of the kernels' pool, which is rayon's pool.
///
/// A kernel called on another thread wakes a pool thread and waits for it, which takes as long as
/// some kernels do. Run a network or a training step in here to pay for this once.
///
/// Backward passes on threads of rayon's global pool must run in here if two may use the same
/// [`FeatureMap`](crate::FeatureMap)s at the same time. A waiting pool thread can start the second
/// pass, and only `in_pool` keeps their gradients apart.
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    let precision = current_precision();
    rayon::scope(|_| {
        let _pass = Pass::begin();
        autocast(precision, f)
    })
}
