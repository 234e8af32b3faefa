//! Upsampling by repeating pixels and downsampling by averaging four. Each computes the other's
//! gradient, up to a factor.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::arith::isa::{Isa, vectorised};
use crate::graph::map::{Map, Node};
use crate::graph::op::MapOp;
use crate::memory::buffer::Buffer;
use crate::memory::uninit::UninitVec;

/// The kind of resampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resample {
    /// Doubles the size: each pixel four times.
    Nearest,
    /// Halves the size: the mean of four pixels.
    Average,
}

vectorised! {
    /// Doubles the width of a row: each pixel twice, times `factor`.
    fn repeat(x: &[f32], channels: usize, factor: f32, y: &mut [f32]) {
        for (y, x) in y.chunks_exact_mut(2 * channels).zip(x.chunks_exact(channels)) {
            let (left, right) = y.split_at_mut(channels);
            for ((left, right), x) in left.iter_mut().zip(right).zip(x) {
                *left = x * factor;
                *right = *left;
            }
        }
    }
}

vectorised! {
    /// Merges two rows into one of half the width: sums of four pixels, times `factor`.
    fn gather(upper: &[f32], lower: &[f32], channels: usize, factor: f32, y: &mut [f32]) {
        let rows = upper.chunks_exact(2 * channels).zip(lower.chunks_exact(2 * channels));
        for (y, (upper, lower)) in y.chunks_exact_mut(channels).zip(rows) {
            for c in 0..channels {
                y[c] = ((upper[c] + upper[channels + c]) + (lower[c] + lower[channels + c])) * factor;
            }
        }
    }
}

/// Checks that height and width can be resampled.
pub(crate) fn check(resample: Resample, [height, width]: [usize; 2]) -> Result<()> {
    if resample == Resample::Average && !(height.is_multiple_of(2) && width.is_multiple_of(2)) {
        bail!("avg_pool2: both sides must be even, got {height}×{width}");
    }
    Ok(())
}

/// Resamples `x`.
pub(crate) fn resample(isa: Isa, resample: Resample, x: &Node) -> Result<Node> {
    let [images, height, width, channels] = x.map.dims;
    check(resample, [height, width])?;
    let _span = trace_span!("resample, forward").entered();
    let (y, sides) = match resample {
        Resample::Nearest => (spread(isa, &x.map.values, x.map.dims, 1.0), [2 * height, 2 * width]),
        Resample::Average => (sums(isa, &x.map.values, x.map.dims, 0.25), [height / 2, width / 2]),
    };
    let map = Map::new(y, [images, sides[0], sides[1], channels]);
    Node::new(map, &[x], &[], |y| Op { isa, resample, x: x.map.clone(), y })
}

/// Copies each pixel to four, times `factor`.
fn spread(isa: Isa, x: &[f32], [_, _, width, channels]: [usize; 4], factor: f32) -> Buffer {
    let row = width * channels;
    let mut y = UninitVec::from_pool(4 * x.len());
    y.par_chunks_mut(4 * row).zip(x.par_chunks_exact(row)).for_each(|(y, x)| {
        let (upper, lower) = y.split_at_mut(2 * row);
        repeat(isa, x, channels, factor, upper);
        lower.copy_from_slice(upper);
    });
    y.into_buffer()
}

/// Sums four pixels to one, times `factor`.
fn sums(isa: Isa, x: &[f32], [_, _, width, channels]: [usize; 4], factor: f32) -> Buffer {
    let row = width * channels;
    let mut y = UninitVec::from_pool(x.len() / 4);
    y.par_chunks_mut(row / 2).zip(x.par_chunks_exact(2 * row)).for_each(|(y, x)| {
        let (upper, lower) = x.split_at(row);
        gather(isa, upper, lower, channels, factor, y);
    });
    y.into_buffer()
}

/// The backward operation: from `y` to `x`.
struct Op {
    isa: Isa,
    resample: Resample,
    x: Arc<Map>,
    y: Arc<Map>,
}

impl MapOp for Op {
    const NAME: &'static str = "diffusion-resample";

    fn backward(&self, tokens: &[&Tensor], dtoken: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let _span = trace_span!("resample, backward").entered();
        let dy = self.y.take_gradient(dtoken)?;
        let dx = self.x.accumulate_gradient(self.isa, tokens[0], || match self.resample {
            Resample::Nearest => sums(self.isa, &dy, self.y.dims, 1.0),
            Resample::Average => spread(self.isa, &dy, self.y.dims, 0.25),
        })?;
        Ok(vec![dx])
    }
}
