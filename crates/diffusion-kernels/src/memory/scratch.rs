//! Working memory that a thread keeps between calls, so that the kernels do not pay for fresh pages.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Floats in a cache line: buffers start on one.
const LINE: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A borrowed buffer of `f32`, aligned to a cache line, given back to its thread when dropped.
pub(crate) struct Scratch {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Scratch {
    /// A buffer of `len` floats with whatever an earlier use left in them.
    pub(crate) fn new(len: usize) -> Self {
        let mut memory = POOL.with_borrow_mut(|pool| {
            // The smallest buffer that is large enough, else the largest, which then grows.
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
