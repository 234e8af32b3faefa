//! Sums of maps, and of a map and a number a channel.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::arith::isa::{Isa, vectorised};
use crate::arith::vector::LANES;
use crate::graph::map::{Map, Node};
use crate::graph::op::MapOp;
use crate::memory::fresh::Fresh;
use crate::memory::storage::with_elements;

vectorised! {
    fn sum(a: &[f32], b: &[f32], y: &mut [f32]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

vectorised! {
    /// Adds `numbers`, one a channel, to each pixel.
    fn add_to_pixels(x: &[f32], numbers: &[f32], y: &mut [f32]) {
        for (y, x) in y.chunks_exact_mut(numbers.len()).zip(x.chunks_exact(numbers.len())) {
            for ((y, x), number) in y.iter_mut().zip(x).zip(numbers) {
                *y = x + number;
            }
        }
    }
}

vectorised! {
    /// Adds each pixel to `totals`, in the order of the pixels; several channels at a time.
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

/// The sum of two maps of one size.
pub(crate) fn add(isa: Isa, a: &Node, b: &Node) -> Result<Node> {
    if a.map.dims != b.map.dims {
        bail!("add wants maps of one size, not {:?} and {:?}", a.map.dims, b.map.dims);
    }
    let _span = trace_span!("add maps, forward").entered();
    let row = a.map.row();
    let mut y = Fresh::recycled(a.map.values.len());
    let given = a.map.values.par_chunks_exact(row).zip(b.map.values.par_chunks_exact(row));
    y.par_chunks_mut(row).zip(given).for_each(|(y, (a, b))| sum(isa, a, b, y));
    let parts = [a.map.clone(), b.map.clone()];
    Node::new(Map::new(y.keep(), a.map.dims), &[a, b], &[], |y| Add { isa, parts, y })
}

/// Leads the gradient of a sum back to its parts.
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
            let mut copy = Fresh::recycled(gradient.len());
            let row = self.y.row();
            copy.par_chunks_mut(row)
                .zip(gradient.par_chunks_exact(row))
                .for_each(|(to, from)| to.copy_from_slice(from));
            copy.keep()
        };
        let da = a.lead_back(self.isa, tokens[0], copy)?;
        Ok(vec![da, b.lead_back(self.isa, tokens[1], || gradient)?])
    }
}

/// Says what does not fit.
pub(crate) fn check_embedding([images, channels]: [usize; 2], embedding: &Tensor) -> Result<()> {
    if embedding.dims() != [images, channels] {
        bail!(
            "add_channel_embedding: {images} images of {channels} channels want an embedding (N, C), got {:?}",
            embedding.dims()
        );
    }
    Ok(())
}

/// `x` and to each channel of an image a number of `embedding` (N, C).
pub(crate) fn add_channel_embedding(isa: Isa, x: &Node, embedding: &Tensor) -> Result<Node> {
    let [images, height, width, channels] = x.map.dims;
    check_embedding([images, channels], embedding)?;
    let len = height * width * channels;
    let y = with_elements([embedding], |[embedding]| {
        let mut y = Fresh::recycled(x.map.values.len());
        y.par_chunks_mut(len)
            .zip(x.map.values.par_chunks_exact(len).zip(embedding.par_chunks_exact(channels)))
            .for_each(|(y, (x, e))| add_to_pixels(isa, x, e, y));
        Ok(y.keep())
    })?;
    Node::new(Map::new(y, x.map.dims), &[x], &[embedding], |y| Embed { isa, x: x.map.clone(), y })
}

/// Leads the gradient back to the map and to the embedding.
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
        Ok(vec![self.x.lead_back(self.isa, arguments[0], || gradient)?, Some(de)])
    }
}
