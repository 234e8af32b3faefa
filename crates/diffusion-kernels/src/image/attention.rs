//! Softmax attention over the pixels of an image (Vaswani et al. 2017, eq. 1), one block of queries
//! at a time.
//!
//! The backward pass recomputes the attention weights, so that only queries, keys and values are
//! stored.

use rayon::prelude::*;

use crate::arith::isa::{Isa, vectorised};
use crate::arith::product::{Factor, Target, product_of_words};
use crate::arith::vector::{exp, map_sum, map_sum2};
use crate::image::pixels::padded_len;
use crate::image::transpose::to_channels_last;
use crate::image::words::{by_channel, by_row, by_term};
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
    /// [`Self::columns`] as words.
    fn weights(&self, isa: Isa, queries: &[f32], keys: &[f32], h: usize) -> Scratch {
        let (count, padded) = (queries.len() / self.channels, padded_len(self.pixels));
        let mut weights = Scratch::new(count * padded);
        let rows = self.rows(queries, h);
        let scores = Target::new(&mut weights, padded);
        multiply(isa, (&rows, self.width()), keys, [count, padded], scores);
        for row in weights.chunks_exact_mut(padded) {
            row[self.pixels..].fill(0.0);
            softmax(isa, &mut row[..self.pixels], self.scale());
        }
        weights
    }
}

/// `a · b`, where `a` has rows of `terms` numbers padded to whole vectors, and `b` is [`by_term`].
fn multiply(isa: Isa, (a, terms): (&[f32], usize), b: &[f32], size: [usize; 2], c: Target<'_>) {
    let (format, pitch) = (isa.format(), padded_len(terms));
    let a = by_channel(isa, format, a, pitch);
    let a = Factor::matrix(&a, format.channels(pitch), format.channels(terms));
    product_of_words(isa, format, a, b, size, c);
}

/// Adds `aᵀ · b` to `c`, where `a` and `b` have rows of whole vectors.
fn add_transposed(
    isa: Isa,
    (a, rows): (&[f32], usize),
    (b, columns): (&[f32], usize),
    used_rows: usize,
    c: &mut [f32],
) {
    let (format, terms) = (isa.format(), a.len() / rows);
    let (a, b) = (by_row(isa, format, a, rows), by_row(isa, format, b, columns));
    let a = Factor::transposed(&a, rows, format.rows(terms));
    product_of_words(isa, format, a, &b, [used_rows, columns], Target::onto(c, columns));
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
    let head = |h| {
        let (keys, values) = (sizes.columns(isa, k, h), sizes.rows(v, h));
        let keys = by_term(isa, isa.format(), keys, padded_len(sizes.pixels));
        (keys, by_term(isa, isa.format(), values, padded))
    };
    let heads: Vec<_> = (0..sizes.heads).map(head).collect();
    let block = BLOCK * sizes.channels;
    y.par_chunks_mut(block).zip(q.par_chunks(block)).for_each(|(y, q)| {
        let count = y.len() / sizes.channels;
        let mut result = Scratch::new(count * padded);
        for (h, (keys, values)) in heads.iter().enumerate() {
            let weights = sizes.weights(isa, q, keys, h);
            let sums = Target::new(&mut result, padded);
            multiply(isa, (&weights, sizes.pixels), values, [count, padded], sums);
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
    let term = |b, columns| by_term(isa, isa.format(), b, columns);
    for h in 0..sizes.heads {
        let keys = term(sizes.columns(isa, k, h), padded_pixels);
        let key_rows = term(sizes.rows(k, h), padded);
        let values = term(sizes.columns(isa, v, h), padded_pixels);
        let mut key_sums = Scratch::zeroed(sizes.pixels * padded);
        let mut value_sums = Scratch::zeroed(sizes.pixels * padded);
        let place = [sizes.channels, h * width, width];
        for ((q, dy), dq) in q.chunks(block).zip(dy.chunks(block)).zip(dq.chunks_mut(block)) {
            let count = q.len() / sizes.channels;
            let weights = sizes.weights(isa, q, &keys, h);
            let (query_rows, dy_rows) = (sizes.rows(q, h), sizes.rows(dy, h));
            // dv = wᵀ·dy
            let (by_pixel, by_channel) = ((&*weights, padded_pixels), (&*dy_rows, padded));
            add_transposed(isa, by_pixel, by_channel, sizes.pixels, &mut value_sums);
            // dw = dy·vᵀ, then ds
            let mut scores = Scratch::new(count * padded_pixels);
            let result = Target::new(&mut scores, padded_pixels);
            multiply(isa, (&dy_rows, width), &values, [count, padded_pixels], result);
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
            let mut query_sums = Scratch::new(count * padded);
            let result = Target::new(&mut query_sums, padded);
            multiply(isa, (&scores, sizes.pixels), &key_rows, [count, padded], result);
            copy_channels(&query_sums, padded, place, dq);
            // dk = dsᵀ·q
            let (by_pixel, by_channel) = ((&*scores, padded_pixels), (&*query_rows, padded));
            add_transposed(isa, by_pixel, by_channel, sizes.pixels, &mut key_sums);
        }
        copy_channels(&key_sums, padded, place, dk);
        copy_channels(&value_sums, padded, place, dv);
    }
}
