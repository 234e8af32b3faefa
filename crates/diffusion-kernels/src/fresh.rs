//! Memory for results that is cleared by the task that fills it.
//!
//! `vec![0.0; n]` clears everything in the calling thread, while the others wait, and long before it is used.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// A vector of `f32` in the making.
pub(crate) struct Fresh {
    memory: Vec<f32>,
    len: usize,
    /// Elements handed out by the latest [`Self::par_chunks_mut`].
    cleared: AtomicUsize,
}

impl Fresh {
    pub(crate) fn new(len: usize) -> Self {
        Self { memory: Vec::with_capacity(len), len, cleared: AtomicUsize::new(0) }
    }

    /// The chunks of the vector, each zeros when it is handed out.
    pub(crate) fn par_chunks_mut(&mut self, chunk: usize) -> impl IndexedParallelIterator<Item = &mut [f32]> {
        self.cleared = AtomicUsize::new(0);
        let cleared = &self.cleared;
        self.memory.spare_capacity_mut()[..self.len].par_chunks_mut(chunk).map(|chunk| {
            chunk.fill(MaybeUninit::new(0.0));
            cleared.fetch_add(chunk.len(), Ordering::Relaxed);
            // SAFETY: just written.
            unsafe { chunk.assume_init_mut() }
        })
    }

    /// The vector.
    ///
    /// # Panics
    /// If not every chunk was handed out.
    pub(crate) fn finish(mut self) -> Vec<f32> {
        assert_eq!(*self.cleared.get_mut(), self.len);
        // SAFETY: the chunks do not overlap, so all elements have been cleared at least.
        unsafe { self.memory.set_len(self.len) };
        self.memory
    }
}
