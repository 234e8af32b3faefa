//! Computations on the pool's threads, one or several at a time.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::{Result, Tensor};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::arith::isa::selected;
use crate::graph::pass::in_pass;
use crate::graph::scope::current_scope;

/// Runs `f` on a thread of the kernels' pool, which is rayon's pool.
///
/// A kernel called on another thread wakes a pool thread and waits for it, which takes as long as
/// some kernels do. Run a network or a training step in here to pay for this once.
///
/// Backward passes on threads of rayon's global pool must run in here if two may run at the same
/// time. A waiting pool thread can start the second pass, and only `in_pool` keeps their gradients
/// apart.
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    let scope = current_scope();
    rayon::scope(|_| in_pass(scope, f))
}

/// Runs `f(0)` to `f(count - 1)` at the same time, each as [`in_pool`] does, and returns the
/// results in this order.
///
/// Each call has an equal share of as many threads as the current pool has: with two calls and four
/// threads, two threads. If the threads cannot be divided evenly, the calls run in groups, or one
/// after the other on all threads: an uneven division would take as long as its slowest call.
pub fn in_parallel<R: Send>(count: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
    at_once(greatest_common_divisor(rayon::current_num_threads(), count), count, f)
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Runs `f(0)` to `f(count - 1)`, up to `workers` of them at the same time.
fn at_once<R: Send>(workers: usize, count: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
    if workers.min(count) < 2 {
        return (0..count).map(|i| in_pool(|| f(i))).collect();
    }
    let (scope, next) = (current_scope(), AtomicUsize::new(0));
    let results = Mutex::new(Vec::with_capacity(count));
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            let result = in_pass(scope, || f(i));
            results.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
        }
    };
    let threads = rayon::current_num_threads() / workers;
    let pools: Option<Vec<Pool>> = (0..workers).map(|_| Pool::with(threads)).collect();
    match pools {
        Some(pools) => run_in(&pools, &work),
        // The system has no more threads.
        None => in_pool(work),
    }
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs `work` once in each pool, and waits for all.
fn run_in(pools: &[Pool], work: &(impl Fn() + Sync)) {
    if let [Pool(Some(first)), rest @ ..] = pools {
        first.in_place_scope(|scope| {
            scope.spawn(|_| work());
            run_in(rest, work);
        });
    }
}

/// Pools that are not in use.
static UNUSED: Mutex<Vec<ThreadPool>> = Mutex::new(Vec::new());

/// A pool that goes back to [`UNUSED`] when dropped. It is never `None` before.
struct Pool(Option<ThreadPool>);

impl Pool {
    /// A pool of this many threads; `None` if the system cannot start them.
    fn with(threads: usize) -> Option<Self> {
        let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
        let found = unused.iter().position(|pool| pool.current_num_threads() == threads);
        if let Some(i) = found {
            return Some(Self(Some(unused.swap_remove(i))));
        }
        // Those of other sizes end, so that the number of idle threads stays small.
        let others = std::mem::take(&mut *unused);
        drop(unused);
        drop(others);
        Some(Self(Some(ThreadPoolBuilder::new().num_threads(threads).build().ok()?)))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        UNUSED.lock().unwrap_or_else(PoisonError::into_inner).extend(self.0.take());
    }
}

/// The largest number of images that one thread computes at a time in [`in_parts`].
const MAX_PART: usize = 32;

/// Runs `network` on the images `x` (N, …), as [`in_pool`] does. `network` gets a part of the
/// images and their numbers; the result for an image must not depend on the others.
///
/// If no gradients are needed, each thread runs the whole network on images of its own. In one pass
/// over all images, the threads would meet in every operation, and a small operation takes less
/// time than waking a thread. `is_training` says whether the parameters need gradients.
///
/// # Errors
/// An error of `network`.
pub fn in_parts(
    x: &Tensor,
    is_training: bool,
    network: impl Fn(&Tensor, Range<usize>) -> Result<Tensor> + Sync,
) -> Result<Tensor> {
    let (images, threads) = (x.dim(0)?, rayon::current_num_threads());
    let rounds = images.div_ceil(threads * MAX_PART).max(1);
    let part = images.div_ceil(threads * rounds);
    let is_on_cpu = x.device().is_cpu() && selected().is_some();
    let is_whole = current_scope().whole_batches || images <= part;
    if is_training || x.track_op() || !is_on_cpu || is_whole {
        return in_pool(|| network(x, 0..images));
    }
    let count = images.div_ceil(part);
    let parts = at_once(threads.min(count), count, |i| {
        let part = i * part..images.min((i + 1) * part);
        network(&x.narrow(0, part.start, part.len())?, part)
    });
    Tensor::cat(&parts.into_iter().collect::<Result<Vec<_>>>()?, 0)
}
