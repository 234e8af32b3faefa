//! Softmax attention over the pixels of an image (Vaswani et al. 2017, eq. 1), one block of queries
//! at a time.
//!
//! The backward pass recomputes the attention weights, so that only queries, keys and values are
//! stored.

use rayon::prelude::*;

use crate::arith::isa::{Isa, vectorised};
use crate::arith::product::{Factor, Target, product};
use crate::arith::vector::{exp, map_sum, map_sum2};
use crate::image::pixels::padded_len;
use crate::image::transpose::to_channels_last;
use crate::memory::scratch::Scratch;

/// The number of queries whose weights are computed together.
const BLOCK: usize = 56;

/// The sizes of the attention over one image.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pixels: usize,
    channels: usize,
    heads: usize,
}

impl Sizes {
    pub(crate) fn new([_, height, width, channels]: [usize; 4], heads: usize) -> Self {
        Self { pixels: height * width, channels, heads }
    }

    /// The number of channels of a head.
    fn width(&self) -> usize {
        self.channels / self.heads
    }

    pub(crate) fn len(&self) -> usize {
        self.pixels * self.channels
    }

    /// The factor of the scores: 1 / √width.
    fn scale(&self) -> f32 {
        1.0 / (self.width() as f32).sqrt()
    }

    /// Head `h` of some pixels, `[pixel][channel padded]`.
    fn rows(&self, x: &[f32], h: usize) -> Scratch {
        let padded = padded_len(self.width());
        let mut rows = Scratch::zeroed(x.len() / self.channels * padded);
        for (row, x) in rows.chunks_exact_mut(padded).zip(x.chunks_exact(self.channels)) {
            row[..self.width()].copy_from_slice(&x[h * self.width()..][..self.width()]);
        }
        rows
    }

    /// Head `h` of all pixels, `[channel][pixel padded]`.
    fn columns(&self, isa: Isa, x: &[f32], h: usize) -> Scratch {
        let (padded, width) = (padded_len(self.pixels), self.width());
        let mut columns = Scratch::zeroed(width * padded);
        // Called with pixels and channels exchanged.
        to_channels_last(
            isa,
            &x[h * width..],
            self.channels,
            [self.pixels, width],
            &mut columns,
            padded,
        );
        columns
    }

    /// The attention weights of some queries of head `h`, `[query][pixel padded]`; `keys` are
    /// [`Self::columns`].
    fn weights(&self, isa: Isa, queries: &[f32], keys: &[f32], h: usize) -> Scratch {
        let (count, padded) = (queries.len() / self.channels, padded_len(self.pixels));
        let mut weights = Scratch::new(count * padded);
        let by_query = Factor::matrix(&queries[h * self.width()..], self.channels, self.width());
        let scores = Target::new(&mut weights, padded);
        product(isa, by_query, keys, [count, padded], scores);
        for row in weights.chunks_exact_mut(padded) {
            row[self.pixels..].fill(0.0);
            softmax(isa, &mut row[..self.pixels], self.scale());
        }
        weights
    }
}

vectorised! {
    /// Replaces `x` by the softmax of `x · scale`.
    fn softmax(x: &mut [f32], scale: f32) {
        let largest = x.iter().fold(f32::NEG_INFINITY, |largest, &x| if x > largest { x } else { largest });
        for x in &mut *x {
            *x = exp::<FMA>((*x - largest) * scale);
        }
        let factor = 1.0 / map_sum(x, |x| x);
        for x in x {
            *x *= factor;
        }
    }
}

vectorised! {
    /// The backward pass of [`softmax`]: ds = w · (dw − Σ w·dw) · scale, which replaces dw in
    /// `gradient`.
    fn softmax_backward(weights: &[f32], scale: f32, gradient: &mut [f32]) {
        let mean = map_sum2(weights, gradient, |w, dw| w * dw);
        for (dw, w) in gradient.iter_mut().zip(weights) {
            *dw = w * (*dw - mean) * scale;
        }
    }
}

/// The attention of one image. Each block of queries is a task.
pub(crate) fn forward(isa: Isa, sizes: Sizes, [q, k, v]: [&[f32]; 3], y: &mut [f32]) {
    let (width, padded) = (sizes.width(), padded_len(sizes.width()));
    let heads: Vec<_> =
        (0..sizes.heads).map(|h| (sizes.columns(isa, k, h), sizes.rows(v, h))).collect();
    let block = BLOCK * sizes.channels;
    y.par_chunks_mut(block).zip(q.par_chunks(block)).for_each(|(y, q)| {
        let count = y.len() / sizes.channels;
        let mut result = Scratch::new(count * padded);
        for (h, (keys, values)) in heads.iter().enumerate() {
            let weights = sizes.weights(isa, q, keys, h);
            let by_query = Factor::matrix(&weights, padded_len(sizes.pixels), sizes.pixels);
            let sums = Target::new(&mut result, padded);
            product(isa, by_query, values, [count, padded], sums);
            copy_channels(&result, padded, [sizes.channels, h * width, width], y);
        }
    });
}

/// Copies `[row][width, padded]` to the channels `first..first + width` of pixels.
fn copy_channels(
    from: &[f32],
    padded: usize,
    [channels, first, width]: [usize; 3],
    to: &mut [f32],
) {
    for (to, from) in to.chunks_exact_mut(channels).zip(from.chunks_exact(padded)) {
        to[first..first + width].copy_from_slice(&from[..width]);
    }
}

/// The backward pass of one image: the gradients of queries, keys and values.
pub(crate) fn backward(
    isa: Isa,
    sizes: Sizes,
    [q, k, v]: [&[f32]; 3],
    dy: &[f32],
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let (width, padded, padded_pixels) =
        (sizes.width(), padded_len(sizes.width()), padded_len(sizes.pixels));
    let block = BLOCK * sizes.channels;
    for h in 0..sizes.heads {
        let (keys, key_rows, values) =
            (sizes.columns(isa, k, h), sizes.rows(k, h), sizes.columns(isa, v, h));
        let mut key_sums = Scratch::zeroed(sizes.pixels * padded);
        let mut value_sums = Scratch::zeroed(sizes.pixels * padded);
        let place = [sizes.channels, h * width, width];
        for ((q, dy), dq) in q.chunks(block).zip(dy.chunks(block)).zip(dq.chunks_mut(block)) {
            let count = q.len() / sizes.channels;
            let weights = sizes.weights(isa, q, &keys, h);
            let (query_rows, dy_rows) = (sizes.rows(q, h), sizes.rows(dy, h));
            // dv = wᵀ·dy
            let by_pixel = Factor::transposed(&weights, padded_pixels, count);
            product(
                isa,
                by_pixel,
                &dy_rows,
                [sizes.pixels, padded],
                Target::onto(&mut value_sums, padded),
            );
            // dw = dy·vᵀ, then ds
            let mut scores = Scratch::new(count * padded_pixels);
            let by_query = Factor::matrix(&dy_rows, padded, width);
            let result = Target::new(&mut scores, padded_pixels);
            product(isa, by_query, &values, [count, padded_pixels], result);
            let rows =
                scores.chunks_exact_mut(padded_pixels).zip(weights.chunks_exact(padded_pixels));
            for (scores, weights) in rows {
                softmax_backward(
                    isa,
                    &weights[..sizes.pixels],
                    sizes.scale(),
                    &mut scores[..sizes.pixels],
                );
            }
            // dq = ds·k
            let mut query_sums = Scratch::zeroed(count * padded);
            let by_query = Factor::matrix(&scores, padded_pixels, sizes.pixels);
            product(
                isa,
                by_query,
                &key_rows,
                [count, padded],
                Target::onto(&mut query_sums, padded),
            );
            copy_channels(&query_sums, padded, place, dq);
            // dk = dsᵀ·q
            let by_pixel = Factor::transposed(&scores, padded_pixels, count);
            product(
                isa,
                by_pixel,
                &query_rows,
                [sizes.pixels, padded],
                Target::onto(&mut key_sums, padded),
            );
        }
        copy_channels(&key_sums, padded, place, dk);
        copy_channels(&value_sums, padded, place, dv);
    }
}
