//! Winograd's method for layers with many channels, on all threads at once.

// The 36 matrices of a wide layer do not fit the cache of a core: with 256 channels on both sides
// they take 9 MiB. So they are stored in panels of 32 outputs, and a convolution has one of two
// orders:
//
//     with many tiles, a thread takes a strip of tiles, which stays in its cache:
//         V = Bᵀ d B
//         for each panel: M = V · U[panel], and Y = start + Aᵀ M A for its outputs
//     with few tiles, all threads work on a group of tiles, so that U is read once:
//         V = Bᵀ d B for all tiles          a thread takes a strip of tiles
//         M[place] = V[place] · U[place]    a thread takes a place
//         Y = start + Aᵀ M A                a thread takes some rows of an image
//
// 1. The sums of a weight gradient exist once, not once for each task: a thread adds all strips to
//    the sums of its place, in the order of the tiles.
// 2. An element of M or of the sums is computed as in the narrow method, so its bits are the same
//    in both orders.

use std::ops::Range;

use rayon::prelude::*;

use super::canvas::MIN_TASK;
use super::transforms::{
    K, PLACES, Packing, Products, place_pitch, transform_inputs, transform_output_gradients,
    transform_outputs, transform_weight_gradients, transform_weights,
};
use super::{Canvas, OUT, SUM_STRIP, Tiles, strips};
use crate::arith::isa::Isa;
use crate::arith::product::{Factor, Target, product_of_words};
use crate::arith::vector::LANES;
use crate::image::transpose::{to_channels_first, to_channels_last};
use crate::memory::buffer::Buffer;
use crate::memory::scratch::Scratch;
use crate::memory::uninit::UninitVec;

/// The smallest channels · outputs for which the weights are shared by all threads.
const MIN_WEIGHTS: usize = 96 * 96;
/// The number of tiles that all threads convolve together.
const GROUP: usize = 128;
/// The number of tiles that all threads add to a weight gradient together.
const SUM_GROUP: usize = 256;
/// The number of tiles that one task transforms.
const STRIP: usize = 32;
/// The number of outputs whose weights are stored together.
const PANEL: usize = 2 * LANES;
/// The number of rows of weights that one task transforms.
const ROWS: usize = 16;

/// Whether a layer is wide.
pub(crate) fn is_wide(channels: usize, outputs: usize) -> bool {
    let fill_vectors = channels.is_multiple_of(LANES) && outputs.is_multiple_of(LANES);
    fill_vectors && channels * outputs >= MIN_WEIGHTS
}

/// The number of images that all threads process together. Results do not depend on it.
pub(crate) fn group(tiles: Tiles) -> usize {
    (GROUP / tiles.per_image()).max(rayon::current_num_threads())
}

/// Whether an image has enough tiles to pay for reading the weights.
pub(crate) fn fills_strip(tiles: Tiles) -> bool {
    tiles.per_image() >= STRIP
}

/// A convolution with transformed weights.
pub(crate) struct WideWinograd {
    isa: Isa,
    channels: usize,
    outputs: usize,
    /// `[panel][place][channel][output]`, words with places at [`place_pitch`].
    weights: Scratch,
}

impl WideWinograd {
    /// A convolution with `weight` (outputs, channels, 3, 3).
    pub(crate) fn new(isa: Isa, weight: &[f32], outputs: usize, channels: usize) -> Self {
        let taps = channels * K * K;
        let mut plain = Scratch::new(taps * outputs);
        plain.par_chunks_mut(ROWS * K * K * outputs).enumerate().for_each(|(i, plain)| {
            let first = i * ROWS * K * K;
            let rows = plain.len() / outputs;
            to_channels_last(isa, &weight[first..], taps, [outputs, rows], plain, outputs);
        });
        Self::transformed(isa, &plain, channels, outputs, false)
    }

    /// The convolution for the input gradient of `weight` (outputs, channels, 3, 3).
    pub(crate) fn transposed(isa: Isa, weight: &[f32], outputs: usize, channels: usize) -> Self {
        let mut plain = Scratch::new(outputs * K * K * channels);
        let kernels = plain.par_chunks_mut(K * K * channels);
        kernels.zip(weight.par_chunks_exact(channels * K * K)).for_each(|(plain, weight)| {
            to_channels_last(isa, weight, K * K, [channels, K * K], plain, channels);
        });
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
        let format = isa.format();
        let len = PLACES * place_pitch(format.channels(channels) * PANEL);
        let mut weights = Scratch::new(outputs.div_ceil(PANEL) * len);
        weights.par_chunks_mut(len).enumerate().for_each(|(i, panel)| {
            let columns = i * PANEL..outputs.min((i + 1) * PANEL);
            transform_weights(isa, plain, outputs, columns, rotated, format, panel);
        });
        Self { isa, channels, outputs, weights }
    }

    /// Convolves the images on `canvas` into `y`, which has channels last. `start` holds the values
    /// added to the output channels, for each image or for all. `alone`: other threads have other
    /// images.
    pub(crate) fn run(&self, canvas: &Canvas, start: &[f32], y: &mut [f32], alone: bool) {
        // A part is one row of tiles, or an image whose last row of tiles is cut off.
        let (height, width) = canvas.tiles.side;
        let rows = if height % OUT == 0 { OUT } else { height };
        let (part, len) = (Tiles::new((rows, width)), rows * width * self.outputs);
        let per_strip = (STRIP / part.per_image()).max(1);
        let parts = Parts { part, len, per_image: height / rows };
        let strips = y.len().div_ceil(per_strip * len);
        if alone {
            for (i, y) in y.chunks_mut(per_strip * len).enumerate() {
                self.run_strip(canvas, &parts, i * per_strip, start, y);
            }
        } else if strips >= 2 * rayon::current_num_threads() {
            y.par_chunks_mut(per_strip * len).enumerate().for_each(|(i, y)| {
                self.run_strip(canvas, &parts, i * per_strip, start, y);
            });
        } else {
            let per_group = (GROUP / part.per_image()).max(1);
            for (i, y) in y.chunks_mut(per_group * len).enumerate() {
                self.run_group(canvas, &parts, i * per_group, start, y);
            }
        }
    }

    /// Computes the parts of `y` from part `first` on, on one thread.
    fn run_strip(
        &self,
        canvas: &Canvas,
        parts: &Parts,
        first: usize,
        start: &[f32],
        y: &mut [f32],
    ) {
        let Self { isa, channels, outputs, .. } = *self;
        let per_part = parts.part.per_image();
        let tiles = y.len() / parts.len * per_part;
        let packing = Packing::Channels(isa.format());
        let pitch = place_pitch(packing.len(tiles, channels));
        let mut inputs = Scratch::new(PLACES * pitch);
        transform_inputs(isa, canvas, first * per_part, tiles, packing, &mut inputs, pitch);
        let sums_pitch = place_pitch(tiles * PANEL);
        let mut sums = Scratch::new(PLACES * sums_pitch);
        for panel in 0..outputs.div_ceil(PANEL) {
            let columns = PANEL.min(outputs - panel * PANEL);
            let places = inputs.chunks_exact(pitch).zip(sums.chunks_exact_mut(sums_pitch));
            for (place, (a, c)) in places.enumerate() {
                self.multiply(place, panel, (a, tiles), Target::new(c, columns));
            }
            for (i, y) in y.chunks_exact_mut(parts.len).enumerate() {
                let products = Products {
                    places: &sums[i * per_part * columns..],
                    pitch: sums_pitch,
                    channels: columns,
                };
                let start = &parts.start(start, outputs, first + i)[panel * PANEL..];
                let y = &mut y[panel * PANEL..];
                transform_outputs(isa, products, start, parts.part, 0, per_part, (y, outputs));
            }
        }
    }

    /// Like [`Self::run_strip`], on all threads.
    fn run_group(
        &self,
        canvas: &Canvas,
        parts: &Parts,
        first: usize,
        start: &[f32],
        y: &mut [f32],
    ) {
        let Self { isa, channels, outputs, .. } = *self;
        let per_part = parts.part.per_image();
        let tiles = y.len() / parts.len * per_part;
        let packing = Packing::Channels(isa.format());
        let tiles_of = first * per_part..first * per_part + tiles;
        let words = packing.len(STRIP, channels);
        let inputs = Transformed::new(tiles_of, STRIP, words, |strip, to, pitch| {
            transform_inputs(isa, canvas, strip.start, strip.len(), packing, to, pitch);
        });
        let pitch = place_pitch(tiles * outputs);
        let mut sums = Scratch::new(PLACES * pitch);
        sums.par_chunks_mut(pitch).enumerate().for_each(|(place, sums)| {
            for panel in 0..outputs.div_ceil(PANEL) {
                for (first, count, a) in inputs.place(place) {
                    let c = &mut sums[first * outputs + panel * PANEL..];
                    self.multiply(place, panel, (a, count), Target::new(c, outputs));
                }
            }
        });
        let least = MIN_TASK / parts.len + 1;
        y.par_chunks_mut(parts.len).with_min_len(least).enumerate().for_each(|(i, y)| {
            let products =
                Products { places: &sums[i * per_part * outputs..], pitch, channels: outputs };
            let start = parts.start(start, outputs, first + i);
            transform_outputs(isa, products, start, parts.part, 0, per_part, (y, outputs));
        });
    }

    /// Computes M of a place for the outputs of a panel.
    fn multiply(&self, place: usize, panel: usize, (a, count): (&[f32], usize), c: Target<'_>) {
        let format = self.isa.format();
        let words = format.channels(self.channels);
        let columns = PANEL.min(self.outputs - panel * PANEL);
        let panel_len = self.weights.len() / self.outputs.div_ceil(PANEL);
        let weights = &self.weights[panel * panel_len + place * place_pitch(words * columns)..];
        let a = Factor::matrix(a, words, words);
        product_of_words(self.isa, format, a, weights, [count, columns], c);
    }

    /// Like [`Self::run`], for images with channels last.
    pub(crate) fn run_images(&self, tiles: Tiles, x: &[f32], start: &[f32], y: &mut [f32]) {
        self.run(&canvas_of(tiles, x, self.channels), start, y, false);
    }
}

/// The division of the output into parts that different tasks may write.
struct Parts {
    /// The tiles of a part, as of an image.
    part: Tiles,
    /// The number of floats of a part.
    len: usize,
    /// The number of parts of an image.
    per_image: usize,
}

impl Parts {
    /// The values added to the output channels of a part.
    fn start<'a>(&self, start: &'a [f32], outputs: usize, part: usize) -> &'a [f32] {
        let image = part / self.per_image;
        &start[image * outputs % start.len()..][..outputs]
    }
}

/// A canvas with the images `x`, channels last.
fn canvas_of(tiles: Tiles, x: &[f32], channels: usize) -> Canvas {
    let mut canvas = Canvas::new(tiles, x.len() / (tiles.pixels() * channels), channels);
    canvas.fill(x, channels);
    canvas
}

/// Some transformed tiles of a canvas, in strips: `[strip][place][tile][channel]`.
struct Transformed {
    data: Scratch,
    /// The tiles of each strip, counted from the first one of all.
    strips: Vec<Range<usize>>,
    /// The distance between two places of a strip, in floats.
    pitch: usize,
}

impl Transformed {
    /// Transforms `tiles` in strips of at most `max`, which need `len` words at each place.
    /// `transform` writes the places of one strip at the given distance.
    fn new(
        tiles: Range<usize>,
        max: usize,
        len: usize,
        transform: impl Fn(Range<usize>, &mut [f32], usize) + Sync,
    ) -> Self {
        let strips: Vec<_> =
            strips(tiles.len(), max).map(|(first, count)| first..first + count).collect();
        let pitch = place_pitch(len);
        let mut data = Scratch::new(strips.len() * PLACES * pitch);
        data.par_chunks_mut(PLACES * pitch).zip(&strips).for_each(|(to, strip)| {
            transform(tiles.start + strip.start..tiles.start + strip.end, to, pitch);
        });
        Self { data, strips, pitch }
    }

    /// The tiles of `place` by strips: the first tile, the number of tiles, and their numbers.
    fn place(&self, place: usize) -> impl Iterator<Item = (usize, usize, &[f32])> {
        let strips = self.data.chunks_exact(PLACES * self.pitch).zip(&self.strips);
        strips.map(move |(data, strip)| (strip.start, strip.len(), &data[place * self.pitch..]))
    }
}

/// Sums of the gradient of a wide convolution's weights.
pub(crate) struct WideSums {
    isa: Isa,
    outputs: usize,
    channels: usize,
    /// `[place][channel][output]`, valid once `begun`.
    sums: Scratch,
    begun: bool,
}

impl WideSums {
    pub(crate) fn new(isa: Isa, outputs: usize, channels: usize) -> Self {
        let sums = Scratch::new(PLACES * place_pitch(channels * outputs));
        Self { isa, outputs, channels, sums, begun: false }
    }

    /// Adds some images, given by the convolution's inputs and the gradients of its outputs.
    pub(crate) fn add(&mut self, inputs: &Canvas, gradients: &Canvas) {
        let Self { isa, channels, outputs, .. } = *self;
        let (format, packing) = (isa.format(), Packing::Tiles(isa.format()));
        for (first, count) in strips(inputs.len(), SUM_GROUP) {
            let tiles = first..first + count;
            let len = |channels| packing.len(SUM_STRIP, channels);
            let a =
                Transformed::new(tiles.clone(), SUM_STRIP, len(channels), |strip, to, pitch| {
                    transform_inputs(isa, inputs, strip.start, strip.len(), packing, to, pitch);
                });
            let b = Transformed::new(tiles, SUM_STRIP, len(outputs), |strip, to, pitch| {
                let (first, count) = (strip.start, strip.len());
                transform_output_gradients(isa, gradients, first, count, format, to, pitch);
            });
            let begun = self.begun;
            let places = self.sums.par_chunks_mut(place_pitch(channels * outputs));
            places.enumerate().for_each(|(place, sums)| {
                for ((first, count, a), (_, _, b)) in a.place(place).zip(b.place(place)) {
                    let a = Factor::transposed(a, channels, format.rows(count));
                    let c = if begun || first > 0 {
                        Target::onto(sums, outputs)
                    } else {
                        Target::new(sums, outputs)
                    };
                    product_of_words(isa, format, a, b, [channels, outputs], c);
                }
            });
            self.begun = true;
        }
    }

    /// Like [`Self::add`], for images with channels last.
    pub(crate) fn add_images(&mut self, tiles: Tiles, inputs: &[f32], gradients: &[f32]) {
        let inputs = canvas_of(tiles, inputs, self.channels);
        self.add(&inputs, &canvas_of(tiles, gradients, self.outputs));
    }

    /// The weight gradient (outputs, channels, 3, 3).
    pub(crate) fn weights(&self) -> Buffer {
        let Self { isa, channels, outputs, .. } = *self;
        let taps = channels * K * K;
        if !self.begun {
            return Buffer::from(vec![0.0; outputs * taps]);
        }
        let mut plain = Scratch::new(taps * outputs);
        let parts = plain.par_chunks_mut(ROWS * K * K * outputs);
        parts.enumerate().for_each(|(i, plain)| {
            let from = &self.sums[i * ROWS * outputs..];
            let pitch = place_pitch(channels * outputs);
            transform_weight_gradients(isa, from, pitch, outputs, plain);
        });
        let mut weights = UninitVec::from_pool(outputs * taps);
        weights.par_chunks(ROWS * taps).enumerate().for_each(|(i, weights)| {
            let rows = weights.len() / taps;
            to_channels_first(isa, &plain[i * ROWS..], outputs, [rows, taps], weights);
        });
        weights.into_buffer()
    }
}
