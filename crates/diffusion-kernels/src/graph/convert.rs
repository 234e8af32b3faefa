//! Conversion of images with channels first to maps with channels last, and back.

use std::sync::Arc;

use candle_core::{CpuStorage, Device, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::arith::isa::Isa;
use crate::graph::map::{Map, Node};
use crate::graph::op::{Argument, MapOp, apply};
use crate::image::transpose::{to_channels_first, to_channels_last};
use crate::memory::buffer::Buffer;
use crate::memory::storage::{output, with_elements};
use crate::memory::uninit::UninitVec;

/// The map of `images` (N, C, H, W).
pub(crate) fn from_images(isa: Isa, images: &Tensor) -> Result<Node> {
    let &[n, c, h, w] = images.dims() else {
        bail!("a map needs images (N, C, H, W), got {:?}", images.shape())
    };
    let values = with_elements([images], |[images]| Ok(channels_last(isa, images, [c, h * w])))?;
    let map = Map::new(values, [n, h, w, c]);
    Node::new(map, &[], &[images], |map| FromImages { isa, map })
}

/// The images (N, C, H, W) of a map.
pub(crate) fn to_images(isa: Isa, node: &Node) -> Result<Tensor> {
    let op = ToImages { isa, map: node.map.clone() };
    if let Some(token) = node.token() {
        return apply(op, &[token]);
    }
    Tensor::from_vec(op.images(), op.shape(), &Device::Cpu)
}

fn channels_last(isa: Isa, images: &[f32], [channels, pixels]: [usize; 2]) -> Buffer {
    let _span = trace_span!("to channels last").entered();
    let len = channels * pixels;
    let mut y = UninitVec::from_pool(images.len());
    y.par_chunks_mut(len)
        .zip(images.par_chunks_exact(len))
        .for_each(|(y, x)| to_channels_last(isa, x, pixels, [channels, pixels], y, channels));
    y.into_buffer()
}

fn channels_first(isa: Isa, map: &[f32], [channels, pixels]: [usize; 2]) -> Vec<f32> {
    let _span = trace_span!("to channels first").entered();
    let len = channels * pixels;
    let mut y = UninitVec::new(map.len());
    y.par_chunks(len)
        .zip(map.par_chunks_exact(len))
        .for_each(|(y, x)| to_channels_first(isa, x, channels, [channels, pixels], y));
    y.into_vec()
}

/// The backward operation of [`from_images`].
struct FromImages {
    isa: Isa,
    map: Arc<Map>,
}

impl MapOp for FromImages {
    const NAME: &'static str = "diffusion-map-from-images";

    fn backward(&self, images: &[&Tensor], dtoken: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let [_, h, w, c] = self.map.dims;
        let gradient = channels_first(self.isa, &self.map.take_gradient(dtoken)?, [c, h * w]);
        Ok(vec![Some(Tensor::from_vec(gradient, images[0].shape(), &Device::Cpu)?)])
    }
}

/// The operation of [`to_images`].
struct ToImages {
    isa: Isa,
    map: Arc<Map>,
}

impl ToImages {
    fn images(&self) -> Vec<f32> {
        let [_, h, w, c] = self.map.dims;
        channels_first(self.isa, &self.map.values, [c, h * w])
    }

    fn shape(&self) -> Shape {
        let [n, h, w, c] = self.map.dims;
        Shape::from((n, c, h, w))
    }
}

impl MapOp for ToImages {
    const NAME: &'static str = "diffusion-images-from-map";

    fn forward(&self, _: &[Argument<'_>]) -> Result<(CpuStorage, Shape)> {
        Ok(output(self.images(), self.shape()))
    }

    fn backward(&self, tokens: &[&Tensor], dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let [_, h, w, c] = self.map.dims;
        let gradient = with_elements([dy], |[dy]| Ok(channels_last(self.isa, dy, [c, h * w])))?;
        Ok(vec![self.map.accumulate_gradient(self.isa, tokens[0], || gradient)?])
    }
}
