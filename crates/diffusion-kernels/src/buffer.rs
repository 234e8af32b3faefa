//! Large buffers that are used again: a training step asks for the same sizes as the one before, and fresh pages from
//! the system cost as much as the arithmetic on them.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers that nobody uses, the longest unused first.
static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Smaller buffers are the allocator's business.
const LEAST: usize = 1 << 14;

fn pool() -> MutexGuard<'static, Vec<Vec<f32>>> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An empty vector with room for `len` floats, from the buffers that are not used or else from the allocator. If none
/// of those fits, the one that has been unused the longest is given up, so that they do not outlive their use by much.
pub(crate) fn room(len: usize) -> Vec<f32> {
    if len >= LEAST {
        let mut pool = pool();
        let fits = |buffer: &Vec<f32>| (len..=len + len / 4).contains(&buffer.capacity());
        if let Some(i) = pool.iter().rposition(fits) {
            return pool.remove(i);
        }
        if !pool.is_empty() {
            let longest_unused = pool.remove(0);
            drop(pool);
            drop(longest_unused);
        }
    }
    Vec::with_capacity(len)
}

/// Numbers in a buffer that is used again after them.
pub(crate) struct Buffer(Vec<f32>);

impl From<Vec<f32>> for Buffer {
    fn from(numbers: Vec<f32>) -> Self {
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
        if self.0.capacity() >= LEAST {
            let mut buffer = std::mem::take(&mut self.0);
            buffer.clear();
            pool().push(buffer);
        }
    }
}
