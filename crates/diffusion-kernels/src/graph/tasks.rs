//! Division of work among threads. Results do not depend on the number of threads.

use std::ops::Deref;

use rayon::prelude::*;

use crate::arith::isa::Isa;
use crate::arith::vector::add;
use crate::memory::buffer::Buffer;
use crate::memory::uninit::UninitVec;

/// The number of images whose weight gradients one task sums. A constant, so that the order of
/// additions is the same for any number of threads.
pub(crate) const CHUNK: usize = 4;

/// The elementwise sum of `partials`, of which the first `len` elements are used, in their order.
pub(crate) fn sum_in_order(
    isa: Isa,
    partials: &[impl Deref<Target = [f32]> + Sync],
    len: usize,
) -> Vec<f32> {
    const CHUNK: usize = 1 << 12;
    let mut sum = UninitVec::new(len);
    sum.par_chunks(CHUNK).enumerate().for_each(|(i, sum)| {
        let sum = sum.zeros();
        for partial in partials {
            add(isa, &partial[i * CHUNK..], sum);
        }
    });
    sum.into_vec()
}

/// The elementwise sum of `partials`, of equal length, in their order. A single one is not copied.
pub(crate) fn total(isa: Isa, mut partials: Vec<Buffer>) -> Vec<f32> {
    if partials.len() == 1 {
        return partials.remove(0).into_vec();
    }
    let len = partials.first().map_or(0, |partial| partial.len());
    sum_in_order(isa, &partials, len)
}
