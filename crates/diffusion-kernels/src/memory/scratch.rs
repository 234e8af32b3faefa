//! Working memory that each thread keeps between calls, so that the kernels do not pay for new
//! pages.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// The number of floats in a cache line. Buffers start on a cache line.
const LINE: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of `f32`, aligned to a cache line. It returns to the pool of the dropping thread.
pub(crate) struct Scratch {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

/// The smallest buffer that is pooled, in floats. Smaller ones often end on another thread than
/// they began, and would take large ones with them.
const MIN_POOLED: usize = 1 << 12;
/// The largest number of unused buffers of a thread. More than that replace the smallest ones.
const MAX_UNUSED: usize = 32;

impl Scratch {
    /// A buffer of `len` floats with arbitrary contents, left by an earlier use.
    pub(crate) fn new(len: usize) -> Self {
        let needed = len + LINE;
        let mut memory = Vec::new();
        if needed >= MIN_POOLED {
            POOL.with_borrow_mut(|pool| {
                // The smallest buffer that is large enough, otherwise the largest, which is then
                // replaced.
                let best = (0..pool.len()).min_by_key(|&i| {
                    let size = pool[i].len();
                    if size >= needed { (0, size) } else { (1, usize::MAX - size) }
                });
                memory = best.map_or_else(Vec::new, |i| pool.swap_remove(i));
            });
        }
        if memory.len() < needed {
            memory = vec![0.0; needed];
        }
        let start = memory.as_ptr().align_offset(LINE * size_of::<f32>());
        Self { memory, start, len }
    }

    /// A buffer of `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let mut scratch = Self::new(len);
        scratch.fill(0.0);
        scratch
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if memory.len() < MIN_POOLED {
            return;
        }
        POOL.with_borrow_mut(|pool| {
            pool.push(memory);
            if pool.len() > MAX_UNUSED {
                let smallest = (0..pool.len()).min_by_key(|&i| pool[i].len());
                smallest.map(|i| pool.swap_remove(i));
            }
        });
    }
}
