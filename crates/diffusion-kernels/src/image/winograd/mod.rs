//! 3 × 3 convolutions with a quarter of the multiplications: Winograd's F(4 × 4, 3 × 3) (Lavin & Gray 2016).
//!
//! ```text
//! Y = Aᵀ[ (G g Gᵀ) ⊙ (Bᵀ d B) ]A        d: 6 × 6 inputs, g: 3 × 3 weights, Y: 4 × 4 outputs
//! ```
//!
//! Summed over channels, ⊙ becomes 36 matrix products, one for each place in the 6 × 6 tile. The weights'
//! gradient is Gᵀ[ Σ (A dY Aᵀ) ⊙ (Bᵀ d B) ]G, summed over tiles. Everything is kept with channels last, so that
//! 16 channels are transformed at a time, and goes by strips of a few tiles that stay in the cache.
//!
//! Rounding errors are two to three times those of the plain sum (see `transforms`): with 64 channels the largest is
//! 1.5e-6 of the largest result, where the plain sum's is 6e-7; a test prints them and holds them below 3e-6.

mod canvas;
mod transforms;

use canvas::OUT;
pub(crate) use canvas::{Canvas, Tiles};
use transforms::{
    K, PLACES, Products, place_pitch, transform_inputs, transform_output_gradients,
    transform_outputs, transform_weight_gradients, transform_weights,
};

use crate::arith::isa::Isa;
use crate::arith::product::{Factor, Target, product};
use crate::arith::vector::LANES;
use crate::image::transpose::{to_channels_first, to_channels_last};
use crate::image::window::Window;
use crate::memory::buffer::Buffer;
use crate::memory::fresh::Fresh;
use crate::memory::scratch::Scratch;

/// Tiles that are convolved together: their transformed inputs and outputs stay in the cache.
pub(crate) const STRIP: usize = 16;
/// Tiles that are summed into the weights' gradient together: many, since the sums are read and written for each strip.
pub(crate) const SUM_STRIP: usize = 64;

/// `total` in as few equal strips of at most `most` as possible: first and count of each.
fn strips(total: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let number = total.div_ceil(most);
    (0..number).map(move |i| {
        let first = i * total / number;
        (first, (i + 1) * total / number - first)
    })
}

/// The fewest channels on either side for which the method pays.
const LEAST_CHANNELS: usize = 32;
/// The least number of products of channels for an image, likewise. Smaller convolutions gain little by the method, and
/// by plain sums their results are two to three times nearer to other libraries'.
const LEAST_WORK: usize = 150_000;

/// Whether the method is for this window, and pays.
pub(crate) fn applies(window: &Window, outputs: usize) -> bool {
    pays(window.channels, outputs, window.h.output * window.w.output) && fits(window)
}

/// Whether the method is worth its transforms and its rounding errors.
pub(crate) fn pays(channels: usize, outputs: usize, pixels: usize) -> bool {
    channels.min(outputs) >= LEAST_CHANNELS && channels * outputs * pixels >= LEAST_WORK
}

/// Whether images of this height and width are large enough.
pub(crate) fn fits_side(side: (usize, usize)) -> bool {
    side.0.min(side.1) >= OUT
}

/// Whether the method is for this window.
fn fits(window: &Window) -> bool {
    let axis = |a: &crate::image::window::Axis| {
        a.taps == K && a.first == -1 && a.stride == 1 && a.output == a.input
    };
    axis(&window.h) && axis(&window.w) && fits_side((window.h.input, window.w.input))
}

/// The weights of a convolution, transformed.
pub(crate) struct Winograd {
    isa: Isa,
    channels: usize,
    outputs: usize,
    /// `[place][channel][output padded to 16]`.
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

    /// The convolution that leads gradients back through `weight` (outputs, channels, 3, 3): from `outputs` channels
    /// to `channels`, with the kernels turned by half a turn.
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

    /// From `[channel][3·3][output]`.
    fn transformed(isa: Isa, plain: &[f32], channels: usize, outputs: usize, turned: bool) -> Self {
        let padded = outputs.next_multiple_of(LANES);
        let mut weights = Scratch::new(PLACES * place_pitch(channels * padded));
        transform_weights(isa, plain, padded, turned, &mut weights);
        Self { isa, channels, outputs, weights }
    }

    /// Convolves the images on `canvas` into `y`, images with channels last and padded to 16. `start` is what the
    /// channels start from, padded likewise, for each image or for all.
    pub(crate) fn run(&self, canvas: &Canvas, start: &[f32], y: &mut [f32]) {
        let Self { isa, channels, .. } = *self;
        let (padded_in, padded) = (canvas.pitch(), self.outputs.next_multiple_of(LANES));
        let (pitch_in, pitch) = (place_pitch(STRIP * padded_in), place_pitch(STRIP * padded));
        let (mut inputs, mut sums) =
            (Scratch::new(PLACES * pitch_in), Scratch::new(PLACES * pitch));
        for (first, count) in strips(canvas.len(), STRIP) {
            transform_inputs(isa, canvas, first, count, &mut inputs, pitch_in);
            let weights = self.weights.chunks_exact(place_pitch(channels * padded));
            let places = inputs.chunks_exact(pitch_in).zip(sums.chunks_exact_mut(pitch));
            for ((a, c), b) in places.zip(weights) {
                let a = Factor::matrix(a, padded_in, channels);
                product(isa, a, b, [count, padded], Target::new(c, padded));
            }
            let products = Products { places: &sums, pitch, channels: padded };
            transform_outputs(isa, products, start, canvas.tiles, first, count, y);
        }
    }

    /// Convolves one image, with its channels last, likewise.
    pub(crate) fn run_image(&self, tiles: Tiles, x: &[f32], start: &[f32], y: &mut [f32]) {
        let mut canvas = Canvas::new(tiles, 1, self.channels);
        canvas.fill(x, self.channels);
        self.run(&canvas, start, y);
    }
}

/// The gradient of a convolution's weights in the making.
pub(crate) struct WinogradSums {
    isa: Isa,
    outputs: usize,
    channels: usize,
    /// `[place][channel][output padded to 16]`, once something has been added.
    sums: Scratch,
    begun: bool,
}

impl WinogradSums {
    pub(crate) fn new(isa: Isa, outputs: usize, channels: usize) -> Self {
        let sums = Scratch::new(PLACES * place_pitch(channels * outputs.next_multiple_of(LANES)));
        Self { isa, outputs, channels, sums, begun: false }
    }

    /// Adds images: the convolution's inputs and the gradients of its outputs.
    pub(crate) fn add(&mut self, inputs: &Canvas, gradients: &Canvas) {
        let Self { isa, channels, .. } = *self;
        let (padded_in, padded) = (inputs.pitch(), gradients.pitch());
        let (pitch_in, pitch) =
            (place_pitch(SUM_STRIP * padded_in), place_pitch(SUM_STRIP * padded));
        let (mut a, mut b) = (Scratch::new(PLACES * pitch_in), Scratch::new(PLACES * pitch));
        for (first, count) in strips(inputs.len(), SUM_STRIP) {
            transform_inputs(isa, inputs, first, count, &mut a, pitch_in);
            transform_output_gradients(isa, gradients, first, count, &mut b, pitch);
            let places = a.chunks_exact(pitch_in).zip(b.chunks_exact(pitch));
            let sums = self.sums.chunks_exact_mut(place_pitch(channels * padded));
            for ((a, b), c) in places.zip(sums) {
                let a = Factor::transposed(a, padded_in, count);
                let c = if self.begun { Target::onto(c, padded) } else { Target::new(c, padded) };
                product(isa, a, b, [channels, padded], c);
            }
            self.begun = true;
        }
    }

    /// The gradient (outputs, channels, 3, 3).
    pub(crate) fn weights(&self) -> Buffer {
        let (taps, padded) = (self.channels * K * K, self.outputs.next_multiple_of(LANES));
        if !self.begun {
            return Buffer::from(vec![0.0; self.outputs * taps]);
        }
        let mut plain = Scratch::new(taps * padded);
        transform_weight_gradients(self.isa, &self.sums, padded, &mut plain);
        Fresh::written(self.outputs * taps, |weights| {
            to_channels_first(self.isa, &plain, padded, [self.outputs, taps], weights);
        })
    }
}
