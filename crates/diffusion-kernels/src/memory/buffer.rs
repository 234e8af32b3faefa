//! A pool of large buffers. Each training step needs the same sizes as the one before, and new
//! pages from the system cost as much as the arithmetic on them.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

static POOL: Mutex<Pool> =
    Mutex::new(Pool { free: Vec::new(), free_len: 0, used_len: 0, max_used: 0 });

/// The unused buffers, and the sizes of all buffers.
struct Pool {
    /// Unused buffers, the longest unused first.
    free: Vec<Vec<f32>>,
    /// The number of floats in `free`.
    free_len: usize,
    /// The number of floats in the buffers in use.
    used_len: usize,
    /// The largest `used_len` so far. `free_len + used_len` never exceeds it.
    max_used: usize,
}

/// The smallest capacity that is pooled, in floats. Smaller buffers go to the allocator.
const MIN_POOLED: usize = 1 << 14;

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    fn take(&mut self, i: usize) -> Vec<f32> {
        let buffer = self.free.remove(i);
        self.free_len -= buffer.capacity();
        buffer
    }

    /// Removes the buffers that exceed the largest use so far, the longest unused first.
    fn excess(&mut self) -> Vec<Vec<f32>> {
        let mut excess = Vec::new();
        while self.free_len + self.used_len > self.max_used && !self.free.is_empty() {
            excess.push(self.take(0));
        }
        excess
    }
}

/// A vector with capacity for `len` floats, from the pool or from the allocator. It is empty, or
/// holds the numbers of its last use. A pooled buffer fits if it has at most a quarter too much
/// capacity. If none fits, the longest unused one is freed.
pub(crate) fn pooled_vec(len: usize) -> Vec<f32> {
    if len >= MIN_POOLED {
        let mut pool = pool();
        let fits = |buffer: &Vec<f32>| (len..=len + len / 4).contains(&buffer.capacity());
        if let Some(i) = pool.free.iter().rposition(fits) {
            return pool.take(i);
        }
        if !pool.free.is_empty() {
            let longest_unused = pool.take(0);
            drop(pool);
            drop(longest_unused);
        }
    }
    Vec::with_capacity(len)
}

/// The bytes in buffers in use, and their maximum since [`start_peak`].
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The bytes in buffers in use.
pub(crate) fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// Resets the maximum to the present use, and returns it in bytes.
pub(crate) fn start_peak() -> usize {
    let now = live();
    PEAK.store(now, Ordering::Relaxed);
    now
}

/// The largest number of bytes in use since [`start_peak`].
pub(crate) fn peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

fn bytes(numbers: &Vec<f32>) -> usize {
    numbers.capacity() * size_of::<f32>()
}

/// A buffer that returns to the pool when it is dropped.
pub(crate) struct Buffer(Vec<f32>);

impl From<Vec<f32>> for Buffer {
    fn from(numbers: Vec<f32>) -> Self {
        let size = bytes(&numbers);
        PEAK.fetch_max(LIVE.fetch_add(size, Ordering::Relaxed) + size, Ordering::Relaxed);
        if numbers.capacity() >= MIN_POOLED {
            let mut pool = pool();
            pool.used_len += numbers.capacity();
            pool.max_used = pool.max_used.max(pool.used_len);
        }
        Self(numbers)
    }
}

impl Buffer {
    /// The numbers, for memory that does not return to the pool.
    pub(crate) fn into_vec(mut self) -> Vec<f32> {
        let numbers = std::mem::take(&mut self.0);
        LIVE.fetch_sub(bytes(&numbers), Ordering::Relaxed);
        if numbers.capacity() >= MIN_POOLED {
            pool().used_len -= numbers.capacity();
        }
        numbers
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        LIVE.fetch_sub(bytes(&self.0), Ordering::Relaxed);
        let capacity = self.0.capacity();
        if capacity >= MIN_POOLED {
            let buffer = std::mem::take(&mut self.0);
            let mut pool = pool();
            pool.used_len -= capacity;
            pool.free_len += capacity;
            pool.free.push(buffer);
            let excess = pool.excess();
            drop(pool);
            drop(excess);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_never_holds_more_than_the_largest_use() {
        // Other tests use the pool at the same time; the assertions hold for all of them together.
        for round in 0..50 {
            let buffers: Vec<Buffer> = (0..4)
                .map(|i| Buffer::from(Vec::with_capacity(MIN_POOLED * (1 + (round * 7 + i) % 13))))
                .collect();
            drop(buffers);
            let pool = pool();
            assert!(pool.free_len + pool.used_len <= pool.max_used);
            assert_eq!(pool.free.iter().map(Vec::capacity).sum::<usize>(), pool.free_len);
        }
        let again = pooled_vec(MIN_POOLED * 2);
        assert!(again.capacity() >= MIN_POOLED * 2);
    }
}
