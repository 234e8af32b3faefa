//! How work is divided among the threads, so that results do not depend on how many there are.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};

use rayon::prelude::*;

use crate::arith::isa::Isa;
use crate::arith::vector::add;
use crate::memory::fresh::Fresh;

/// Images whose weight gradients one task adds up. A constant: the order of additions is the same for any
/// number of threads.
pub(crate) const CHUNK: usize = 4;

/// The sum of the first `len` elements of `partials`, taken one after the other.
pub(crate) fn sum_in_order(
    isa: Isa,
    partials: &[impl Deref<Target = [f32]> + Sync],
    len: usize,
) -> Vec<f32> {
    const CHUNK: usize = 1 << 12;
    let mut sum = Fresh::new(len);
    sum.par_chunks_mut(CHUNK).enumerate().for_each(|(i, sum)| {
        for partial in partials {
            add(isa, &partial[i * CHUNK..], sum);
        }
    });
    sum.finish()
}

thread_local! {
    /// The passes that this thread has begun, the latest last.
    static PASSES: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// What tells the present backward pass from all others. Candle keeps a pass on one thread; but while a thread of the pool
/// waits for others it may take up a whole second pass, which [`in_pool`] therefore gives a number of its own.
pub(crate) fn current_pass() -> (ThreadId, u64) {
    (thread::current().id(), PASSES.with_borrow(|passes| passes.last().copied().unwrap_or(0)))
}

/// Ends a pass when it is dropped, by a panic too.
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

/// Runs `f` on one of the threads that the kernels use.
///
/// A kernel that is called on another thread wakes one of those up and waits for it, which takes as long as some of the
/// kernels do. What calls many of them, a network or a training step, does so once if it runs in here.
///
/// A backward pass that is to run on a thread of rayon's global pool must run in here if another one may lead through the
/// same [`FeatureMap`](crate::FeatureMap)s at the same time: a waiting thread takes up other work, and only here are the
/// two told apart.
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| {
        let _pass = Pass::begin();
        f()
    })
}
