//! How work is divided among the threads, so that results do not depend on how many there are.

/// Images whose weight gradients one task adds up. A constant: the order of additions is the same for any
/// number of threads.
pub(crate) const CHUNK: usize = 4;

/// Runs `f` on one of the threads that the kernels use.
///
/// A kernel that is called on another thread wakes one of those up and waits for it, which takes as long as some of the
/// kernels do. What calls many of them, a network or a training step, does so once if it runs in here.
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
