//! Large buffers that are used again: a training step asks for the same sizes as the one before, and fresh pages from
//! the system cost as much as the arithmetic on them.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

static POOL: Mutex<Pool> =
    Mutex::new(Pool { free: Vec::new(), free_len: 0, used_len: 0, most_used: 0 });

/// Buffers that nobody uses, and how much there is of everything.
struct Pool {
    /// The longest unused first.
    free: Vec<Vec<f32>>,
    /// Floats in them.
    free_len: usize,
    /// Floats in the buffers that are used.
    used_len: usize,
    /// The most that these have ever been. With what is free there are never more.
    most_used: usize,
}

/// Smaller buffers are the allocator's business.
const LEAST: usize = 1 << 14;

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    fn take(&mut self, i: usize) -> Vec<f32> {
        let buffer = self.free.remove(i);
        self.free_len -= buffer.capacity();
        buffer
    }

    /// What must go so that there is not more than there ever was in use.
    fn excess(&mut self) -> Vec<Vec<f32>> {
        let mut excess = Vec::new();
        while self.free_len + self.used_len > self.most_used && !self.free.is_empty() {
            excess.push(self.take(0));
        }
        excess
    }
}

/// An empty vector with room for `len` floats, from the buffers that are not used or else from the allocator. If none
/// of those fits, the one that has been unused the longest is given up.
pub(crate) fn room(len: usize) -> Vec<f32> {
    if len >= LEAST {
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

/// Bytes in buffers that are used, and the most since [`start_peak`].
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Bytes in buffers that are used.
pub(crate) fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// Forgets how much was used before, and says how much is now.
pub(crate) fn start_peak() -> usize {
    let now = live();
    PEAK.store(now, Ordering::Relaxed);
    now
}

/// The most bytes that were used since [`start_peak`].
pub(crate) fn peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

fn bytes(numbers: &Vec<f32>) -> usize {
    numbers.capacity() * size_of::<f32>()
}

/// Numbers in a buffer that is used again after them.
pub(crate) struct Buffer(Vec<f32>);

impl From<Vec<f32>> for Buffer {
    fn from(numbers: Vec<f32>) -> Self {
        let size = bytes(&numbers);
        PEAK.fetch_max(LIVE.fetch_add(size, Ordering::Relaxed) + size, Ordering::Relaxed);
        if numbers.capacity() >= LEAST {
            let mut pool = pool();
            pool.used_len += numbers.capacity();
            pool.most_used = pool.most_used.max(pool.used_len);
        }
        Self(numbers)
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
        if capacity >= LEAST {
            let mut buffer = std::mem::take(&mut self.0);
            buffer.clear();
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
    fn there_are_never_more_buffers_than_were_once_in_use() {
        // Other tests use the pool at the same time: what holds, holds for all of them together.
        for round in 0..50 {
            let buffers: Vec<Buffer> = (0..4)
                .map(|i| Buffer::from(Vec::with_capacity(LEAST * (1 + (round * 7 + i) % 13))))
                .collect();
            drop(buffers);
            let pool = pool();
            assert!(pool.free_len + pool.used_len <= pool.most_used);
            assert_eq!(pool.free.iter().map(Vec::capacity).sum::<usize>(), pool.free_len);
        }
        let again = room(LEAST * 2);
        assert!(again.is_empty() && again.capacity() >= LEAST * 2);
    }
}
