//! Uninitialised memory for results, written once by the parallel tasks that compute them.
//!
//! `vec![0.0; n]` would clear all of it in the calling thread while the others wait, and then be
//! overwritten. Memory from the pool holds the numbers of its last use, which need not be cleared.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::memory::buffer::{Buffer, pooled_vec};

/// The number of floats that one task fills, at least.
const FILL: usize = 1 << 16;

/// A vector of `f32` that is not yet written. It counts the written elements, so that
/// [`into_vec`](Self::into_vec) can check that none is missing.
pub(crate) struct UninitVec {
    memory: Vec<f32>,
    len: usize,
    /// Whether the memory holds numbers of an earlier use.
    used: bool,
    /// The number of elements written so far.
    written: AtomicUsize,
}

impl UninitVec {
    pub(crate) fn new(len: usize) -> Self {
        Self { memory: Vec::with_capacity(len), len, used: false, written: AtomicUsize::new(0) }
    }

    /// Like [`Self::new`], with memory from the pool of [`Buffer`]s; for [`Self::into_buffer`].
    pub(crate) fn from_pool(len: usize) -> Self {
        let mut memory = pooled_vec(len);
        let used = memory.len() >= len;
        memory.clear();
        Self { memory, len, used, written: AtomicUsize::new(0) }
    }

    /// A buffer of `len` elements that `write` fills.
    pub(crate) fn build(len: usize, write: impl FnOnce(UninitSlice<'_>)) -> Buffer {
        let mut vector = Self::from_pool(len);
        let Self { memory, used, written, .. } = &mut vector;
        write(UninitSlice {
            memory: &mut memory.spare_capacity_mut()[..len],
            used: *used,
            written,
        });
        vector.into_buffer()
    }

    /// Splits the vector into parts of `chunk` elements, for different tasks to write.
    pub(crate) fn par_chunks(
        &mut self,
        chunk: usize,
    ) -> impl IndexedParallelIterator<Item = UninitSlice<'_>> {
        self.written = AtomicUsize::new(0);
        let (used, written) = (self.used, &self.written);
        let memory = &mut self.memory.spare_capacity_mut()[..self.len];
        memory.par_chunks_mut(chunk).map(move |memory| UninitSlice { memory, used, written })
    }

    /// Like [`Self::par_chunks`], as a list.
    pub(crate) fn chunks(&mut self, chunk: usize) -> Vec<UninitSlice<'_>> {
        self.par_chunks(chunk).collect()
    }

    /// Like [`Self::par_chunks`], with arbitrary numbers in each part.
    pub(crate) fn par_chunks_mut(
        &mut self,
        chunk: usize,
    ) -> impl IndexedParallelIterator<Item = &mut [f32]> {
        self.par_chunks(chunk).map(UninitSlice::arbitrary)
    }

    /// The written vector, as a buffer that returns to the pool.
    ///
    /// # Panics
    /// If an element was not written.
    pub(crate) fn into_buffer(self) -> Buffer {
        self.into_vec().into()
    }

    /// The written vector.
    ///
    /// # Panics
    /// If an element was not written.
    pub(crate) fn into_vec(mut self) -> Vec<f32> {
        assert_eq!(*self.written.get_mut(), self.len);
        // SAFETY: the parts do not overlap, and each counted its elements when it was written.
        unsafe { self.memory.set_len(self.len) };
        self.memory
    }
}

/// A part of an [`UninitVec`] that is not yet written.
pub(crate) struct UninitSlice<'a> {
    memory: &'a mut [MaybeUninit<f32>],
    used: bool,
    written: &'a AtomicUsize,
}

impl<'a> UninitSlice<'a> {
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    /// Fills the part with zeros.
    pub(crate) fn zeros(self) -> &'a mut [f32] {
        self.memory.par_chunks_mut(FILL).for_each(|memory| memory.fill(MaybeUninit::new(0.0)));
        // SAFETY: just written.
        unsafe { self.assume_written() }
    }

    /// The part with arbitrary numbers, which the caller must overwrite. In this crate's tests they
    /// are NaN.
    pub(crate) fn arbitrary(self) -> &'a mut [f32] {
        if cfg!(test) {
            let numbers = self.zeros();
            numbers.fill(f32::NAN);
            return numbers;
        }
        if !self.used {
            return self.zeros();
        }
        // SAFETY: the memory holds numbers of an earlier use.
        unsafe { self.assume_written() }
    }

    /// Splits the part into parts of `chunk` elements.
    pub(crate) fn chunks(self, chunk: usize) -> impl Iterator<Item = UninitSlice<'a>> {
        let Self { used, written, .. } = self;
        self.memory.chunks_mut(chunk).map(move |memory| UninitSlice { memory, used, written })
    }

    /// A pointer to the first element, for writing.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.memory.as_mut_ptr().cast()
    }

    /// Marks the part as written.
    ///
    /// # Safety
    /// Every element must have been written.
    pub(crate) unsafe fn assume_written(self) -> &'a mut [f32] {
        self.written.fetch_add(self.memory.len(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.memory.assume_init_mut() }
    }
}
