//! The fused residual block: forward and backward pass of a few images at a time.

// For each group of images, while they are in the cache (Add; with ScaleShift, e modulates norm2
// instead):
//
//     forward   n1 = silu(norm1(x))            written into a canvas
//               h  = conv1(n1) + (bias1 + e)   kept if there will be a backward pass
//               n2 = drop(silu(norm2(h)))      written into a second canvas
//               y  = conv2(n2) + (bias2 + skip bias) + (skip · x, or x)
//     backward  n2 from h again;  dconv2 += n2, dy;  dn2 = conv2ᵀ(dy);  dh = norm2 backward
//               n1 from x again;  dconv1 += n1, dh;  dn1 = conv1ᵀ(dh)
//               dx = norm1 backward + (skipᵀ · dy, or dy)
//
// 1. A group runs through the whole block before the next one starts, so that its intermediate
//    images stay in the cache. The group size depends on the image size only, and an output is
//    computed from its own image only. So the forward result does not depend on the batch.
// 2. Only h and the statistics of the normalisations are kept for the backward pass. n1 and n2 are
//    computed again from x and h: the same arithmetic as before, so the same bits.
// 3. Normalisations write into the convolution's canvas, whose zero frame is the padding. So n1, n2
//    and dh are not copied to be padded.
// 4. Biases and the embedding cost no pass: they are the convolutions' initial values. The skip
//    product is added to the output in place.
// 5. The backward pass of a normalisation ends as dx = a·dz + b·x + c for each channel
//    (`Combination`). For norm2, one pass writes dh into the canvas of conv1ᵀ and sums it over the
//    pixels: the gradient of conv1's bias and, with Add, of the embedding.
// 6. conv2's bias and the skip's bias have the same gradient, Σ dy. It is summed once.
// 7. A task sums the parameters' gradients of a fixed number of images, and the tasks are added in
//    order (`graph/tasks.rs`). So gradients do not depend on the number of threads.

mod backward;
mod conv;
mod forward;

use std::fmt;

use crate::TimeConditioning;
use crate::arith::isa::Isa;
use crate::arith::vector::LANES;
use crate::image::mask::{DropoutMask, ImageMask};
use crate::image::norm::{Modulated, Norm};
use crate::image::pixels::{Pixels, padded_len};
use crate::image::winograd::{self, Method, Tiles};
pub(crate) use backward::BackwardPass;
use conv::KERNEL;
pub(crate) use forward::ForwardPass;

/// The sizes of one call.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub images: usize,
    /// The numbers of input channels of the maps that are concatenated.
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
    /// Whether the fused passes support this block: 3 × 3 kernels, and no side below 4 pixels.
    pub(crate) fn fit(&self) -> bool {
        self.kernel == KERNEL && winograd::fits_side(self.tiles.side)
    }

    pub(crate) fn pixels(&self) -> usize {
        self.tiles.pixels()
    }

    /// The width of the embedding of an image.
    pub(crate) fn embedding(&self) -> usize {
        self.conditioning.width(self.outputs)
    }

    pub(crate) fn padded_outputs(&self) -> usize {
        padded_len(self.outputs)
    }

    /// The method of the convolution from `inputs` channels, in both passes.
    fn method(&self, inputs: usize) -> Method {
        if self.is_wide() {
            Method::Wide
        } else if winograd::pays(inputs, self.outputs, self.pixels()) {
            Method::Winograd
        } else {
            Method::Direct
        }
    }

    /// Whether all threads work on one group of images, and not each on its own.
    pub(crate) fn is_wide(&self) -> bool {
        let pays = |inputs| winograd::pays(inputs, self.outputs, self.pixels());
        winograd::is_wide(self.inputs.max(self.outputs), self.outputs)
            && self.inputs.is_multiple_of(LANES)
            && pays(self.inputs)
            && pays(self.outputs)
    }

    /// Whether all threads work on one group of images in the forward pass.
    pub(crate) fn shares_groups(&self) -> bool {
        self.is_wide() && !self.by_image()
    }

    /// Whether the forward pass of a wide block gives each thread its own images: if they have
    /// enough tiles, and there are enough of them.
    pub(crate) fn by_image(&self) -> bool {
        self.is_wide()
            && winograd::fills_strip(self.tiles)
            && self.images >= 2 * rayon::current_num_threads()
    }

    /// The number of images to process together, for about `tiles` tiles.
    pub(crate) fn group(&self, tiles: usize) -> usize {
        if self.is_wide() {
            winograd::group(self.tiles)
        } else {
            (tiles / self.tiles.per_image()).max(1)
        }
    }
}

/// The embedding and the parameters as slices, weight before bias.
pub(crate) struct Parameters<'a> {
    norm1: [&'a [f32]; 2],
    conv1: [&'a [f32]; 2],
    norm2: [&'a [f32]; 2],
    conv2: [&'a [f32]; 2],
    skip: [&'a [f32]; 2],
    /// (N, Cout), or (N, 2·Cout) for scale and shift.
    embedding: &'a [f32],
}

impl<'a> Parameters<'a> {
    /// From the embedding, and the parameters in the order of the block. The skip's may be missing.
    ///
    /// # Panics
    /// If there are fewer than nine slices.
    pub(crate) fn new(all: &[&'a [f32]]) -> Self {
        let &[embedding, w1, b1, w2, b2, w3, b3, w4, b4, ref skip @ ..] = all else {
            unreachable!("an embedding and at least eight parameters");
        };
        let skip = if let [weight, bias] = skip { [*weight, *bias] } else { [&[][..]; 2] };
        Self { norm1: [w1, b1], conv1: [w2, b2], norm2: [w3, b3], conv2: [w4, b4], skip, embedding }
    }
}

/// Images whose channels come from one map or two, each given with its number of channels.
pub(crate) struct Stack<'a> {
    pub parts: Vec<(&'a [f32], usize)>,
    pub pixels: usize,
}

impl<'a> Stack<'a> {
    /// `count` images from `first` on, with padded channels.
    fn images(&self, first: usize, count: usize) -> Pixels<'a> {
        let part = |&(x, channels): &(&'a [f32], usize)| {
            (&x[first * self.pixels * channels..][..count * self.pixels * channels], channels)
        };
        Pixels::stacked(&self.parts.iter().map(part).collect::<Vec<_>>())
    }
}

/// What both passes need besides the parameters.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub isa: Isa,
    pub sizes: Sizes,
    pub eps: f32,
    /// The dropout before the second convolution.
    pub dropout: Option<DropoutMask>,
}

impl Settings {
    fn norm<'a>(&self, [weight, bias]: [&'a [f32]; 2]) -> Norm<'a> {
        Norm { isa: self.isa, groups: self.sizes.groups, eps: self.eps, weight, bias }
    }

    /// The dropout of image i.
    fn mask(&self, i: usize) -> Option<ImageMask<'_>> {
        self.dropout.as_ref().map(|mask| mask.image(i))
    }

    /// The second normalisation's parameters and the modulation for image i.
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
