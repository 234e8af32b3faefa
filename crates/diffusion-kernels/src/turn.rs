//! From images with channels first to maps with channels last, and back.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::buffer::Buffer;
use crate::fresh::Fresh;
use crate::isa::Isa;
use crate::map::{Map, Node, token};
use crate::storage::{output, with_elements};
use crate::transpose::{to_channels_first, to_channels_last};

/// The map of `images` (N, C, H, W).
pub(crate) fn from_images(isa: Isa, images: &Tensor) -> Result<Node> {
    let &[n, c, h, w] = images.dims() else { bail!("a map is made of images, not of {:?}", images.shape()) };
    let values = with_elements([images], |[images]| Ok(channels_last(isa, images, [c, h * w])))?;
    let map = Map::new(values, [n, h, w, c]);
    Node::new(map, [], &[images], |[], map| images.apply_op1(FromImages { isa, map: map.clone() }))
}

/// The images (N, C, H, W) of a map.
pub(crate) fn to_images(isa: Isa, node: &Node) -> Result<Tensor> {
    let op = ToImages { isa, map: node.map.clone() };
    if let Some(token) = node.token() {
        return token.apply_op1(op);
    }
    Tensor::from_vec(op.images(), op.shape(), &Device::Cpu)
}

fn channels_last(isa: Isa, images: &[f32], [channels, pixels]: [usize; 2]) -> Buffer {
    let _span = trace_span!("turn channels last").entered();
    let len = channels * pixels;
    let mut y = Fresh::recycled(images.len());
    y.par_chunks_mut(len)
        .zip(images.par_chunks_exact(len))
        .for_each(|(y, x)| to_channels_last(isa, x, pixels, [channels, pixels], y, channels));
    y.keep()
}

fn channels_first(isa: Isa, map: &[f32], [channels, pixels]: [usize; 2]) -> Vec<f32> {
    let _span = trace_span!("turn channels first").entered();
    let len = channels * pixels;
    let mut y = Fresh::new(map.len());
    y.par_chunks(len)
        .zip(map.par_chunks_exact(len))
        .for_each(|(y, x)| to_channels_first(isa, x, channels, [channels, pixels], y));
    y.finish()
}

/// Leads a map's gradient back to its images.
struct FromImages {
    isa: Isa,
    map: Arc<Map>,
}

impl CustomOp1 for FromImages {
    fn name(&self) -> &'static str {
        "diffusion-map-from-images"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(token())
    }

    fn bwd(&self, images: &Tensor, _: &Tensor, dtoken: &Tensor) -> Result<Option<Tensor>> {
        let [_, h, w, c] = self.map.dims;
        let gradient = channels_first(self.isa, &self.map.take_gradient(dtoken)?, [c, h * w]);
        Ok(Some(Tensor::from_vec(gradient, images.shape(), &Device::Cpu)?))
    }
}

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

impl CustomOp1 for ToImages {
    fn name(&self) -> &'static str {
        "diffusion-images-from-map"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(output(self.images(), self.shape()))
    }

    fn bwd(&self, token: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let [_, h, w, c] = self.map.dims;
        let gradient = with_elements([dy], |[dy]| Ok(channels_last(self.isa, dy, [c, h * w])))?;
        self.map.lead_back(self.isa, token, || gradient)
    }
}
