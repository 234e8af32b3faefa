//! Several passes at the same time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Result, Tensor};

use super::{bits, random};
use crate::{Precision, autocast, conv2d, in_parallel, in_parts, peak_bytes};

fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

#[test]
fn threads_are_divided_among_the_calls() {
    for (threads, calls, expected) in
        [(1, 3, 1), (4, 2, 2), (2, 6, 1), (6, 4, 3), (3, 2, 3), (2, 5, 2), (3, 1, 3)]
    {
        let own = with_threads(threads, || in_parallel(calls, |_| rayon::current_num_threads()));
        assert_eq!(own, vec![expected; calls], "{threads} threads, {calls} calls");
    }
    // Each call waits for the other one, so they run at the same time.
    let both = Barrier::new(2);
    let results = with_threads(2, || in_parallel(2, |i| (i, both.wait().is_leader())));
    assert_eq!(results.len(), 2);
    assert!(with_threads(4, || in_parallel(0, |_| ())).is_empty());
}

#[test]
fn results_are_in_order_and_calls_can_be_nested() {
    let nested = |i: usize| in_parallel(3, move |j| 10 * i + j);
    let results = with_threads(4, || in_parallel(5, nested));
    let expected: Vec<Vec<usize>> = (0..5).map(|i| (0..3).map(|j| 10 * i + j).collect()).collect();
    assert_eq!(results, expected);
}

#[test]
fn a_panic_reaches_the_caller_and_harms_no_later_call() {
    let calls = AtomicUsize::new(0);
    let panics = |i: usize| {
        calls.fetch_add(1, Ordering::Relaxed);
        assert!(i != 1, "the second call fails");
    };
    let caught = catch_unwind(AssertUnwindSafe(|| with_threads(2, || in_parallel(4, panics))));
    assert!(caught.is_err());
    assert!(calls.load(Ordering::Relaxed) >= 2);
    assert_eq!(with_threads(2, || in_parallel(4, |i| i)), [0, 1, 2, 3]);
}

/// Images get the same bits in any division, in the precision around the call.
#[test]
fn parts_of_a_batch_give_the_same_bits() -> Result<()> {
    let (x, weight) = (random(1, &[70, 32, 8, 8]), random(2, &[32, 32, 3, 3]));
    let (x, weight) = (x.as_detached_tensor(), weight.as_detached_tensor());
    for precision in [Precision::F32, Precision::Bf16] {
        let whole = autocast(precision, || conv2d(&x, &weight, None, 1, 1))?;
        for (threads, images, count) in
            [(1, 70, 3), (2, 70, 4), (2, 64, 2), (2, 3, 2), (3, 2, 2), (4, 1, 1)]
        {
            let parts = AtomicUsize::new(0);
            let network = |x: &Tensor, range: std::ops::Range<usize>| {
                parts.fetch_add(1, Ordering::Relaxed);
                assert_eq!(x.dim(0)?, range.len());
                conv2d(x, &weight, None, 1, 1)
            };
            let x = x.narrow(0, 0, images)?;
            let y = with_threads(threads, || autocast(precision, || in_parts(&x, false, network)))?;
            assert_eq!(bits(&y), bits(&whole.narrow(0, 0, images)?), "{threads}, {images}");
            assert_eq!(parts.load(Ordering::Relaxed), count, "{threads}, {images}");
        }
        // With gradients, and while memory is measured, a batch is one part.
        let whole = |x: &Tensor, range: std::ops::Range<usize>| {
            assert_eq!(range, 0..70);
            Ok(x.clone())
        };
        in_parts(&x, true, whole)?;
        peak_bytes(|| in_parts(&x, false, whole)).0?;
    }
    Ok(())
}
