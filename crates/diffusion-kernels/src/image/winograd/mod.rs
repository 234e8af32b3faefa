//! 3 × 3 convolutions with a quarter of the multiplications: Winograd's F(4 × 4, 3 × 3) (Lavin &
//! Gray 2016), and their weight gradients.

// For input tiles d of 6 × 6, kernels g of 3 × 3 and output tiles Y of 4 × 4:
//
//     Y  = Aᵀ[ Σ_channels (G g Gᵀ) ⊙ (Bᵀ d B) ]A
//     dg = Gᵀ[ Σ_tiles (A dY Aᵀ) ⊙ (Bᵀ d B) ]G
//
//     U[place] = (G g Gᵀ)[place], (channels, outputs)       once per call, for 36 places
//     for each strip of 16 tiles:
//         V[place] = (Bᵀ d B)[place], (tiles, channels)
//         M[place] = V[place] · U[place]                    36 matrix products
//         Y = bias + Aᵀ M A                                 and store
//
// 1. 36 products replace 4·4·9 = 144. Summed over channels, ⊙ is one matrix product per place,
//    which is the work of `arith/product.rs`.
// 2. Tiles do not overlap in the output, so strips may be cut anywhere, also across images. A row
//    of a product depends on its own tile only; the bits of an image therefore do not depend on the
//    batch.
// 3. Strips are short (16 tiles), so that V and M stay in the cache between the three steps. The
//    weight gradient uses 64 tiles, because each strip reads and writes the sums once. Each strip
//    continues the sums of the one before in the order of the tiles.
// 4. With channels last, the transforms act on 16 channels at a time; no lane ever needs another
//    one.
// 5. Edge tiles extend past the image. The canvas holds zeros there: they are the padding for
//    inputs and add nothing to the weight gradient. Outputs past the edge are not stored.
// 6. The gradient of the input is the same convolution with inputs and outputs exchanged and each
//    kernel rotated by half a turn, so only the weights are prepared differently (`transposed`).
// 7. The transforms add and subtract numbers of similar size, which can cost digits. The points in
//    `transforms.rs` keep the factors near 1, so that rounding errors are only two to three times
//    those of the plain sum. With 64 channels, the largest error is 1.5e-6 of the largest result,
//    and 6e-7 for the plain sum. A test prints the errors and requires less than 3e-6.
// 8. Small convolutions gain little, so they keep the plain sum and its smaller errors (`pays`).

mod canvas;
mod transforms;
mod wide;

use canvas::OUT;
pub(crate) use canvas::{Canvas, Tiles};
use transforms::{
    K, PLACES, Packing, Products, place_pitch, transform_inputs, transform_output_gradients,
    transform_outputs, transform_weight_gradients, transform_weights,
};
pub(crate) use wide::{WideSums, WideWinograd, fills_strip, group, is_wide};

use crate::arith::format::Format;
use crate::arith::isa::Isa;
use crate::arith::product::{Factor, Target, product_of_words};
use crate::arith::vector::LANES;
use crate::image::transpose::{to_channels_first, to_channels_last};
use crate::image::window::Window;
use crate::memory::buffer::Buffer;
use crate::memory::scratch::Scratch;
use crate::memory::uninit::UninitVec;

/// The number of tiles convolved together. Their transformed inputs and outputs stay in the cache.
pub(crate) const STRIP: usize = 16;
/// The number of tiles added to the weight gradient together. It is large, since each strip reads
/// and writes the sums.
pub(crate) const SUM_STRIP: usize = 64;

/// Divides `total` into as few strips of at most `max` as possible, of nearly equal size. Yields
/// the first index and the count of each.
fn strips(total: usize, max: usize) -> impl Iterator<Item = (usize, usize)> {
    let number = total.div_ceil(max);
    (0..number).map(move |i| {
        let first = i * total / number;
        (first, (i + 1) * total / number - first)
    })
}

/// The method of a 3 × 3 convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Plain sums.
    Direct,
    /// Each thread convolves its own images.
    Winograd,
    /// All threads convolve one group of images.
    Wide,
}

/// The smallest number of channels, on both sides, for which the method is used.
const MIN_CHANNELS: usize = 32;
/// The smallest channels · outputs · pixels of an image for which the method is used. Smaller
/// convolutions gain little, and with plain sums their results are two to three times closer to
/// those of other libraries.
const MIN_WORK: usize = 150_000;

/// The method for a window with this number of outputs.
pub(crate) fn method(window: &Window, outputs: usize) -> Method {
    if !pays(window.channels, outputs, window.h.output * window.w.output) || !fits(window) {
        Method::Direct
    } else if is_wide(window.channels, outputs) {
        Method::Wide
    } else {
        Method::Winograd
    }
}

/// Whether the method is worth its transforms and its rounding errors, for `pixels` of an image.
pub(crate) fn pays(channels: usize, outputs: usize, pixels: usize) -> bool {
    channels.min(outputs) >= MIN_CHANNELS && channels * outputs * pixels >= MIN_WORK
}

/// Whether images of this height and width hold a whole output tile.
pub(crate) fn fits_side(side: (usize, usize)) -> bool {
    side.0.min(side.1) >= OUT
}

/// Whether the method supports this window: 3 × 3, stride 1, padding 1, and no side below 4 pixels.
fn fits(window: &Window) -> bool {
    let axis = |a: &crate::image::window::Axis| {
        a.taps == K && a.first == -1 && a.stride == 1 && a.output == a.input
    };
    axis(&window.h) && axis(&window.w) && fits_side((window.h.input, window.w.input))
}

/// A convolution with transformed weights.
pub(crate) struct Winograd {
    isa: Isa,
    channels: usize,
    outputs: usize,
    /// `[place][channel][output padded to 16]`, as words.
    weights: Scratch,
}

impl Winograd {
    /// A convolution with `weight` (outputs, channels, 3, 3).
    pub(crate) fn new(isa: Isa, weight: &[f32], outputs: usize, channels: usize) -> Self {
        let padded = outputs.next_multiple_of(LANES);
        let taps = channels * K * K;
        let mut plain = Scratch::zeroed(taps * padded);
        to_channels_last(isa, weight, taps, [outputs, taps], &mut plain, padded);
        Self::transformed(isa, &plain, channels, outputs, false)
    }

    /// The convolution for the input gradient of `weight` (outputs, channels, 3, 3): from `outputs`
    /// to `channels` channels, with kernels rotated by half a turn.
    pub(crate) fn transposed(isa: Isa, weight: &[f32], outputs: usize, channels: usize) -> Self {
        let padded = channels.next_multiple_of(LANES);
        let mut plain = Scratch::zeroed(outputs * K * K * padded);
        let kernels =
            weight.chunks_exact(channels * K * K).zip(plain.chunks_exact_mut(K * K * padded));
        for (weight, plain) in kernels {
            to_channels_last(isa, weight, K * K, [channels, K * K], plain, padded);
        }
        Self::transformed(isa, &plain, outputs, channels, true)
    }

    /// Transforms weights in the layout `[channel][3·3][output]`.
    fn transformed(
        isa: Isa,
        plain: &[f32],
        channels: usize,
        outputs: usize,
        rotated: bool,
    ) -> Self {
        let padded = outputs.next_multiple_of(LANES);
        let format = isa.format();
        let len = PLACES * place_pitch(format.channels(channels) * padded);
        // Channels of pairs without weights count as zero.
        let mut weights =
            if format == Format::F32 { Scratch::new(len) } else { Scratch::zeroed(len) };
        transform_weights(isa, plain, padded, 0..padded, rotated, format, &mut weights);
        Self { isa, channels, outputs, weights }
    }

    /// Convolves the images on `canvas` into `y`, which has channels last, padded to a multiple of
    /// 16. `start` holds the values added to the output channels, padded likewise, for each image
    /// or for all.
    pub(crate) fn run(&self, canvas: &Canvas, start: &[f32], y: &mut [f32]) {
        let Self { isa, channels, .. } = *self;
        let padded = self.outputs.next_multiple_of(LANES);
        let (format, packing) = (isa.format(), Packing::Channels(isa.format()));
        // With floats, the padding of the last channels takes part in no sum.
        let (words, words_in) = (format.channels(channels), format.channels(canvas.pitch()));
        let (pitch_in, pitch) = (place_pitch(STRIP * words_in), place_pitch(STRIP * padded));
        let (mut inputs, mut sums) =
            (Scratch::new(PLACES * pitch_in), Scratch::new(PLACES * pitch));
        for (first, count) in strips(canvas.len(), STRIP) {
            transform_inputs(isa, canvas, first, count, packing, &mut inputs, pitch_in);
            let weights = self.weights.chunks_exact(place_pitch(words * padded));
            let places = inputs.chunks_exact(pitch_in).zip(sums.chunks_exact_mut(pitch));
            for ((a, c), b) in places.zip(weights) {
                let a = Factor::matrix(a, words_in, words);
                product_of_words(isa, format, a, b, [count, padded], Target::new(c, padded));
            }
            let products = Products { places: &sums, pitch, channels: padded };
            transform_outputs(isa, products, start, canvas.tiles, first, count, (y, padded));
        }
    }

    /// Like [`Self::run`], for one image with channels last.
    pub(crate) fn run_image(&self, tiles: Tiles, x: &[f32], start: &[f32], y: &mut [f32]) {
        let mut canvas = Canvas::new(tiles, 1, self.channels);
        canvas.fill(x, self.channels);
        self.run(&canvas, start, y);
    }
}

/// Partial sums of the gradient of a convolution's weights.
pub(crate) struct WinogradSums {
    isa: Isa,
    outputs: usize,
    channels: usize,
    /// `[place][channel][output padded to 16]`, valid once `begun`.
    sums: Scratch,
    begun: bool,
}

impl WinogradSums {
    pub(crate) fn new(isa: Isa, outputs: usize, channels: usize) -> Self {
        let sums = Scratch::new(PLACES * place_pitch(channels * outputs.next_multiple_of(LANES)));
        Self { isa, outputs, channels, sums, begun: false }
    }

    /// Adds some images, given by the convolution's inputs and the gradients of its outputs.
    pub(crate) fn add(&mut self, inputs: &Canvas, gradients: &Canvas) {
        let Self { isa, channels, .. } = *self;
        let (padded_in, padded) = (inputs.pitch(), gradients.pitch());
        let (format, packing) = (isa.format(), Packing::Tiles(isa.format()));
        let pitch_of = |padded| place_pitch(packing.len(SUM_STRIP, padded));
        let (pitch_in, pitch) = (pitch_of(padded_in), pitch_of(padded));
        let (mut a, mut b) = (Scratch::new(PLACES * pitch_in), Scratch::new(PLACES * pitch));
        for (first, count) in strips(inputs.len(), SUM_STRIP) {
            transform_inputs(isa, inputs, first, count, packing, &mut a, pitch_in);
            transform_output_gradients(isa, gradients, first, count, format, &mut b, pitch);
            let places = a.chunks_exact(pitch_in).zip(b.chunks_exact(pitch));
            let sums = self.sums.chunks_exact_mut(place_pitch(channels * padded));
            for ((a, b), c) in places.zip(sums) {
                let a = Factor::transposed(a, padded_in, format.rows(count));
                let c = if self.begun { Target::onto(c, padded) } else { Target::new(c, padded) };
                product_of_words(isa, format, a, b, [channels, padded], c);
            }
            self.begun = true;
        }
    }

    /// The weight gradient (outputs, channels, 3, 3).
    pub(crate) fn weights(&self) -> Buffer {
        let (taps, padded) = (self.channels * K * K, self.outputs.next_multiple_of(LANES));
        if !self.begun {
            return Buffer::from(vec![0.0; self.outputs * taps]);
        }
        let mut plain = Scratch::new(taps * padded);
        let pitch = place_pitch(self.channels * padded);
        transform_weight_gradients(self.isa, &self.sums, pitch, padded, &mut plain);
        UninitVec::build(self.outputs * taps, |weights| {
            to_channels_first(self.isa, &plain, padded, [self.outputs, taps], weights);
        })
    }
}
