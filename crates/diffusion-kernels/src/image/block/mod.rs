//! The residual block, some images at a time.
//!
//! Both passes take images through the whole block before the next ones, so that everything between stays in the cache.
//! What lies between is computed again in the backward pass, except for the first convolution's output.

mod backward;
mod conv;
mod forward;

use std::fmt;

use crate::TimeConditioning;
use crate::arith::isa::Isa;
use crate::image::norm::{Modulated, Norm};
use crate::image::pixels::{Pixels, padded_len};
use crate::image::winograd::{self, Tiles};
pub(crate) use backward::BackwardPass;
use conv::KERNEL;
pub(crate) use forward::ForwardPass;

/// What one call is about.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub images: usize,
    /// The input's channels, by the tensors that hold them.
    pub parts: Vec<usize>,
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub tiles: Tiles,
    pub groups: usize,
    pub conditioning: TimeConditioning,
    pub skip: bool,
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (height, width) = self.tiles.side;
        write!(f, "{height}×{width}, {} to {} channels", self.inputs, self.outputs)
    }
}

impl Sizes {
    /// Whether these passes are for this block: 3 × 3 kernels, and images that are not too small.
    pub(crate) fn fit(&self) -> bool {
        self.kernel == KERNEL && winograd::fits_side(self.tiles.side)
    }

    pub(crate) fn pixels(&self) -> usize {
        self.tiles.pixels()
    }

    /// Numbers of an image's embedding.
    pub(crate) fn embedding(&self) -> usize {
        self.conditioning.width(self.outputs)
    }

    pub(crate) fn padded_outputs(&self) -> usize {
        padded_len(self.outputs)
    }

    /// Whether the convolution from `inputs` channels goes by Winograd's method, in all directions.
    pub(crate) fn winograd(&self, inputs: usize) -> bool {
        winograd::pays(inputs, self.outputs, self.pixels())
    }

    /// How many images to take together, for about `tiles` tiles.
    pub(crate) fn group(&self, tiles: usize) -> usize {
        (tiles / self.tiles.per_image()).max(1)
    }

    /// Takes the packed parameters apart again, and the embedding: weights before biases, in the order of the block.
    pub(crate) fn parameters<'a>(&self, mut packed: &'a [f32]) -> Parameters<'a> {
        let &Self { images, inputs, outputs, skip, .. } = self;
        let mut take = |len: usize| {
            let part;
            (part, packed) = packed.split_at(len);
            part
        };
        let mut pair = |weight: usize, bias: usize| [take(weight), take(bias)];
        let area = KERNEL * KERNEL;
        Parameters {
            norm1: pair(inputs, inputs),
            conv1: pair(outputs * inputs * area, outputs),
            norm2: pair(outputs, outputs),
            conv2: pair(outputs * outputs * area, outputs),
            skip: if skip { pair(outputs * inputs, outputs) } else { [&[], &[]] },
            embedding: take(images * self.embedding()),
        }
    }
}

/// The parameters, or their gradients, as slices: weight before bias.
pub(crate) struct Parameters<'a> {
    norm1: [&'a [f32]; 2],
    conv1: [&'a [f32]; 2],
    norm2: [&'a [f32]; 2],
    conv2: [&'a [f32]; 2],
    skip: [&'a [f32]; 2],
    /// (N, Cout), or (N, 2·Cout) for scale and shift.
    embedding: &'a [f32],
}

/// Images whose channels come from one tensor or two, each given with its number of channels.
pub(crate) struct Stack<'a> {
    pub parts: Vec<(&'a [f32], usize)>,
    pub pixels: usize,
}

impl<'a> Stack<'a> {
    /// Some images, their channels padded.
    fn images(&self, first: usize, count: usize) -> Pixels<'a> {
        let part = |&(x, channels): &(&'a [f32], usize)| {
            (&x[first * self.pixels * channels..][..count * self.pixels * channels], channels)
        };
        Pixels::stacked(&self.parts.iter().map(part).collect::<Vec<_>>())
    }
}

/// What both passes know.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    pub isa: Isa,
    pub sizes: Sizes,
    pub eps: f32,
}

impl Pass {
    fn norm<'a>(&self, [weight, bias]: [&'a [f32]; 2]) -> Norm<'a> {
        Norm { isa: self.isa, groups: self.sizes.groups, eps: self.eps, weight, bias }
    }

    /// The second normalisation's parameters as they act on image i.
    fn modulated<'a>(
        &self,
        [weight, bias]: [&'a [f32]; 2],
        embedding: &'a [f32],
        i: usize,
    ) -> Modulated<'a> {
        let width = self.sizes.embedding();
        let modulation = match self.sizes.conditioning {
            TimeConditioning::Add => &[],
            TimeConditioning::ScaleShift => &embedding[i * width..(i + 1) * width],
        };
        Modulated { weight, bias, modulation }
    }
}
