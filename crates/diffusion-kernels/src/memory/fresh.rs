//! Memory for results that is written once, by the tasks that compute them.
//!
//! `vec![0.0; n]` clears everything in the calling thread, while the others wait, only to be written over.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::memory::buffer::{Buffer, room};

/// A vector of `f32` in the making.
pub(crate) struct Fresh {
    memory: Vec<f32>,
    len: usize,
    /// Elements that have been written.
    written: AtomicUsize,
}

impl Fresh {
    pub(crate) fn new(len: usize) -> Self {
        Self { memory: Vec::with_capacity(len), len, written: AtomicUsize::new(0) }
    }

    /// As [`Self::new`], in memory that was used before if there is some; for [`Self::keep`].
    pub(crate) fn recycled(len: usize) -> Self {
        Self { memory: room(len), len, written: AtomicUsize::new(0) }
    }

    /// The `len` elements that `write` makes.
    pub(crate) fn written(len: usize, write: impl FnOnce(Unwritten<'_>)) -> Buffer {
        let mut fresh = Self::recycled(len);
        let Self { memory, written, .. } = &mut fresh;
        write(Unwritten { memory: &mut memory.spare_capacity_mut()[..len], written });
        fresh.keep()
    }

    /// The vector in parts of `chunk` elements, to be written by different tasks.
    pub(crate) fn par_chunks(
        &mut self,
        chunk: usize,
    ) -> impl IndexedParallelIterator<Item = Unwritten<'_>> {
        self.written = AtomicUsize::new(0);
        let written = &self.written;
        let memory = &mut self.memory.spare_capacity_mut()[..self.len];
        memory.par_chunks_mut(chunk).map(move |memory| Unwritten { memory, written })
    }

    /// As [`Self::par_chunks`], in a list.
    pub(crate) fn chunks(&mut self, chunk: usize) -> Vec<Unwritten<'_>> {
        self.par_chunks(chunk).collect()
    }

    /// As [`Self::par_chunks`], each part zeros when it is handed out.
    pub(crate) fn par_chunks_mut(
        &mut self,
        chunk: usize,
    ) -> impl IndexedParallelIterator<Item = &mut [f32]> {
        self.par_chunks(chunk).map(Unwritten::zeros)
    }

    /// As [`Self::finish`], in memory that is to be used again.
    pub(crate) fn keep(self) -> Buffer {
        self.finish().into()
    }

    /// The vector.
    ///
    /// # Panics
    /// If not every part was written.
    pub(crate) fn finish(mut self) -> Vec<f32> {
        assert_eq!(*self.written.get_mut(), self.len);
        // SAFETY: the parts do not overlap, and each has counted its elements when they were written.
        unsafe { self.memory.set_len(self.len) };
        self.memory
    }
}

/// A part of a [`Fresh`] vector that is yet to be written.
pub(crate) struct Unwritten<'a> {
    memory: &'a mut [MaybeUninit<f32>],
    written: &'a AtomicUsize,
}

impl<'a> Unwritten<'a> {
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    /// The part, filled with zeros.
    pub(crate) fn zeros(self) -> &'a mut [f32] {
        self.memory.fill(MaybeUninit::new(0.0));
        // SAFETY: just written.
        unsafe { self.assume_written() }
    }

    /// The part, filled with `pattern` again and again, whose length divides the part's.
    pub(crate) fn repeat(self, pattern: &[f32]) -> &'a mut [f32] {
        if pattern.iter().all(|x| x.to_bits() == 0) {
            return self.zeros();
        }
        assert!(self.memory.len().is_multiple_of(pattern.len()));
        for chunk in self.memory.chunks_exact_mut(pattern.len()) {
            chunk.write_copy_of_slice(pattern);
        }
        // SAFETY: just written, all of it, since the pattern fits.
        unsafe { self.assume_written() }
    }

    /// Parts of `chunk` elements.
    pub(crate) fn chunks(self, chunk: usize) -> impl Iterator<Item = Unwritten<'a>> {
        let written = self.written;
        self.memory.chunks_mut(chunk).map(move |memory| Unwritten { memory, written })
    }

    /// Where the elements are to be written.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.memory.as_mut_ptr().cast()
    }

    /// The part, written.
    ///
    /// # Safety
    /// Every element must have been written.
    pub(crate) unsafe fn assume_written(self) -> &'a mut [f32] {
        self.written.fetch_add(self.memory.len(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.memory.assume_init_mut() }
    }
}
