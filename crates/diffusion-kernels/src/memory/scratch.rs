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

impl Scratch {
    /// A buffer of `len` floats with arbitrary contents, left by an earlier use.
    pub(crate) fn new(len: usize) -> Self {
        let mut memory = POOL.with_borrow_mut(|pool| {
            // The smallest buffer that is large enough, otherwise the largest, which is then
            // replaced.
            let fits = |v: &Vec<f32>| v.len() >= len + LINE;
            let best = (0..pool.len()).min_by_key(|&i| {
                let v = &pool[i];
                if fits(v) { (0, v.len()) } else { (1, usize::MAX - v.len()) }
            });
            best.map_or_else(Vec::new, |i| pool.swap_remove(i))
        });
        if memory.len() < len + LINE {
            memory = vec![0.0; len + LINE];
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
        POOL.with_borrow_mut(|pool| pool.push(std::mem::take(&mut self.memory)));
    }
}
