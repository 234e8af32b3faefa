//! Sums of maps, and of a map and a number for each channel.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::arith::isa::{Isa, vectorised};
use crate::arith::vector::LANES;
use crate::graph::map::{Map, Node};
use crate::graph::op::MapOp;
use crate::memory::storage::with_elements;
use crate::memory::uninit::UninitVec;

vectorised! {
    fn sum(a: &[f32], b: &[f32], y: &mut [f32]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

vectorised! {
    /// Adds `numbers`, one for each channel, to each pixel.
    fn add_to_pixels(x: &[f32], numbers: &[f32], y: &mut [f32]) {
        for (y, x) in y.chunks_exact_mut(numbers.len()).zip(x.chunks_exact(numbers.len())) {
            for ((y, x), number) in y.iter_mut().zip(x).zip(numbers) {
                *y = x + number;
            }
        }
    }
}

vectorised! {
    /// Writes the sum of all pixels to `totals`, added in the order of the pixels, several channels
    /// at a time.
    fn add_pixels(x: &[f32], totals: &mut [f32]) {
        let channels = totals.len();
        for c in (0..channels).step_by(LANES) {
            let width = (channels - c).min(LANES);
            let mut sums = [0f32; LANES];
            for pixel in x.chunks_exact(channels) {
                for (sum, x) in sums.iter_mut().zip(&pixel[c..c + width]) {
                    *sum += x;
                }
            }
            totals[c..c + width].copy_from_slice(&sums[..width]);
        }
    }
}

/// The sum of two maps of the same shape.
pub(crate) fn add(isa: Isa, a: &Node, b: &Node) -> Result<Node> {
    if a.map.dims != b.map.dims {
        bail!("add: the maps must have the same shape, got {:?} and {:?}", a.map.dims, b.map.dims);
    }
    let _span = trace_span!("add maps, forward").entered();
    let row = a.map.row();
    let mut y = UninitVec::from_pool(a.map.values.len());
    let rows = a.map.values.par_chunks_exact(row).zip(b.map.values.par_chunks_exact(row));
    y.par_chunks_mut(row).zip(rows).for_each(|(y, (a, b))| sum(isa, a, b, y));
    let parts = [a.map.clone(), b.map.clone()];
    Node::new(Map::new(y.into_buffer(), a.map.dims), &[a, b], &[], |y| Add { isa, parts, y })
}

/// The backward operation: from a sum to its terms.
struct Add {
    isa: Isa,
    parts: [Arc<Map>; 2],
    y: Arc<Map>,
}

impl MapOp for Add {
    const NAME: &'static str = "diffusion-add";

    fn backward(&self, tokens: &[&Tensor], dtoken: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let gradient = self.y.take_gradient(dtoken)?;
        let [a, b] = &self.parts;
        let copy = || {
            let mut copy = UninitVec::from_pool(gradient.len());
            let row = self.y.row();
            copy.par_chunks_mut(row)
                .zip(gradient.par_chunks_exact(row))
                .for_each(|(to, from)| to.copy_from_slice(from));
            copy.into_buffer()
        };
        let da = a.accumulate_gradient(self.isa, tokens[0], copy)?;
        Ok(vec![da, b.accumulate_gradient(self.isa, tokens[1], || gradient)?])
    }
}

/// Checks that `embedding` is (N, C).
pub(crate) fn check_embedding([images, channels]: [usize; 2], embedding: &Tensor) -> Result<()> {
    if embedding.dims() != [images, channels] {
        bail!(
            "add_channel_embedding: {images} images of {channels} channels need an embedding (N, C), got {:?}",
            embedding.dims()
        );
    }
    Ok(())
}

/// Adds `embedding` (N, C) to all pixels of `x`.
pub(crate) fn add_channel_embedding(isa: Isa, x: &Node, embedding: &Tensor) -> Result<Node> {
    let [images, height, width, channels] = x.map.dims;
    check_embedding([images, channels], embedding)?;
    let len = height * width * channels;
    let y = with_elements([embedding], |[embedding]| {
        let mut y = UninitVec::from_pool(x.map.values.len());
        y.par_chunks_mut(len)
            .zip(x.map.values.par_chunks_exact(len).zip(embedding.par_chunks_exact(channels)))
            .for_each(|(y, (x, e))| add_to_pixels(isa, x, e, y));
        Ok(y.into_buffer())
    })?;
    Node::new(Map::new(y, x.map.dims), &[x], &[embedding], |y| Embed { isa, x: x.map.clone(), y })
}

/// The backward operation: from the sum to the map and the embedding.
struct Embed {
    isa: Isa,
    x: Arc<Map>,
    y: Arc<Map>,
}

impl MapOp for Embed {
    const NAME: &'static str = "diffusion-add-channel-embedding";

    fn backward(&self, arguments: &[&Tensor], dtoken: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let [images, height, width, channels] = self.x.dims;
        let gradient = self.y.take_gradient(dtoken)?;
        let mut de = vec![0.0; images * channels];
        de.par_chunks_mut(channels)
            .zip(gradient.par_chunks_exact(height * width * channels))
            .for_each(|(de, dy)| add_pixels(self.isa, dy, de));
        let de = Tensor::from_vec(de, (images, channels), &Device::Cpu)?;
        Ok(vec![self.x.accumulate_gradient(self.isa, arguments[0], || gradient)?, Some(de)])
    }
}
