//! 3 × 3 convolutions with a quarter of the multiplications: Winograd's F(4 × 4, 3 × 3) (Lavin & Gray 2016).
//!
//! ```text
//! Y = Aᵀ[ (G g Gᵀ) ⊙ (Bᵀ d B) ]A        d: 6 × 6 inputs, g: 3 × 3 weights, Y: 4 × 4 outputs
//! ```
//!
//! Summed over channels, ⊙ becomes 36 matrix products, one for each place in the 6 × 6 tile. The weights'
//! gradient is Gᵀ[ Σ (A dY Aᵀ) ⊙ (Bᵀ d B) ]G, summed over tiles. Everything is kept with channels last, so that
//! 16 channels are transformed at a time.
//!
//! Rounding errors are about four times those of the plain sum (a test says how large they are).

use std::ops::{Add, Mul, Sub};

use crate::isa::{Isa, vectorised};
use crate::micro::{LANES, MR};
use crate::product::{Factor, product};
use crate::scratch::Scratch;
use crate::transpose::{Planes, to_channels_first, to_channels_last};
use crate::window::Window;

/// Side of a tile of inputs, and of transformed ones.
const IN: usize = 6;
/// Side of a tile of outputs.
const OUT: usize = 4;
/// Side of the kernel.
const K: usize = 3;
/// Places in a transformed tile.
const PLACES: usize = IN * IN;

/// 16 channels.
#[derive(Clone, Copy)]
struct Lanes([f32; LANES]);

impl Lanes {
    const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let mut lanes = Self::ZERO;
        lanes.0.copy_from_slice(&from[..LANES]);
        lanes
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut lanes = self;
        for i in 0..LANES {
            lanes.0[i] = f(self.0[i], other.0[i]);
        }
        lanes
    }
}

impl Add for Lanes {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
}

impl Sub for Lanes {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
}

impl Mul<f32> for Lanes {
    type Output = Self;
    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        self.zip(self, |a, _| a * factor)
    }
}

/// A linear map of M numbers to N, for 16 channels at a time.
///
/// A type and no function value, so that it is inlined where the wide instructions may be used.
trait Transform<const M: usize, const N: usize> {
    fn apply(x: [Lanes; M]) -> [Lanes; N];
}

/// Bᵀ: inputs.
struct Inputs;

impl Transform<IN, IN> for Inputs {
    #[inline(always)]
    fn apply([d0, d1, d2, d3, d4, d5]: [Lanes; IN]) -> [Lanes; IN] {
        let (a, b) = (d4 - d2 * 4.0, d3 - d1 * 4.0);
        let (c, d) = (d4 - d2, (d3 - d1) * 2.0);
        [d0 * 4.0 - d2 * 5.0 + d4, a + b, a - b, c + d, c - d, d1 * 4.0 - d3 * 5.0 + d5]
    }
}

/// Aᵀ: products to outputs.
struct Outputs;

impl Transform<IN, OUT> for Outputs {
    #[inline(always)]
    fn apply([m0, m1, m2, m3, m4, m5]: [Lanes; IN]) -> [Lanes; OUT] {
        let (a, b, c, d) = (m1 + m2, m1 - m2, m3 + m4, m3 - m4);
        [m0 + a + c, b + d * 2.0, a + c * 4.0, b + d * 8.0 + m5]
    }
}

/// A: gradients of outputs.
struct OutputGradients;

impl Transform<OUT, IN> for OutputGradients {
    #[inline(always)]
    fn apply([y0, y1, y2, y3]: [Lanes; OUT]) -> [Lanes; IN] {
        let (a, b, c, d) = (y0 + y2, y1 + y3, y0 + y2 * 4.0, y1 * 2.0 + y3 * 8.0);
        [y0, a + b, a - b, c + d, c - d, y3]
    }
}

/// G: weights.
struct Weights;

impl Transform<K, IN> for Weights {
    #[inline(always)]
    fn apply([g0, g1, g2]: [Lanes; K]) -> [Lanes; IN] {
        let (a, b) = ((g0 + g2) * (-1.0 / 6.0), g1 * (-1.0 / 6.0));
        let (c, d) = (g0 * (1.0 / 24.0) + g2 * (1.0 / 6.0), g1 * (1.0 / 12.0));
        [g0 * 0.25, a + b, a - b, c + d, c - d, g2]
    }
}

/// Gᵀ: gradients of transformed weights.
struct WeightGradients;

impl Transform<IN, K> for WeightGradients {
    #[inline(always)]
    fn apply([u0, u1, u2, u3, u4, u5]: [Lanes; IN]) -> [Lanes; K] {
        let (a, b, c, d) = ((u1 + u2) * (1.0 / 6.0), u2 - u1, u3 + u4, u3 - u4);
        [u0 * 0.25 - a + c * (1.0 / 24.0), b * (1.0 / 6.0) + d * (1.0 / 12.0), c * (1.0 / 6.0) - a + u5]
    }
}

/// Applies a transform to the columns, then to the rows.
#[inline(always)]
fn two_dimensional<T: Transform<M, N>, const M: usize, const N: usize>(
    _: T,
    load: impl Fn(usize, usize) -> Lanes,
    mut store: impl FnMut(usize, usize, Lanes),
) {
    let mut half = [[Lanes::ZERO; M]; N];
    for j in 0..M {
        let mut column = [Lanes::ZERO; M];
        for i in 0..M {
            column[i] = load(i, j);
        }
        let column = T::apply(column);
        for i in 0..N {
            half[i][j] = column[i];
        }
    }
    for i in 0..N {
        let row = T::apply(half[i]);
        for j in 0..N {
            store(i, j, row[j]);
        }
    }
}

/// How an image is cut into tiles.
#[derive(Clone, Copy)]
struct Tiles {
    /// Height and width of the image.
    side: (usize, usize),
    /// Tiles downwards and across; together they may reach over the edge.
    count: (usize, usize),
}

impl Tiles {
    fn new(side: (usize, usize)) -> Self {
        Self { side, count: (side.0.div_ceil(OUT), side.1.div_ceil(OUT)) }
    }

    fn len(&self) -> usize {
        self.count.0 * self.count.1
    }

    /// Floats from one place's matrix to the next one's; not a multiple of a page, so that the 36 stores of a
    /// tile do not compete for the same lines of the cache.
    fn pitch(&self, channels: usize) -> usize {
        self.len() * channels + LANES
    }
}

vectorised! {
    /// Channels-last `image`, `width` pixels wide, to `places[place][tile][channel]`.
    fn transform_inputs(image: &[f32], width: usize, channels: usize, tiles: Tiles, places: &mut [f32]) {
        let pitch = tiles.pitch(channels);
        for ty in 0..tiles.count.0 {
            for tx in 0..tiles.count.1 {
                for c in (0..channels).step_by(LANES) {
                    let from = &image[(ty * OUT * width + tx * OUT) * channels + c..];
                    let to = &mut places[(ty * tiles.count.1 + tx) * channels + c..];
                    two_dimensional(
                        Inputs,
                        |i, j| Lanes::load(&from[(i * width + j) * channels..]),
                        |i, j, x| x.store(&mut to[(i * IN + j) * pitch..]),
                    );
                }
            }
        }
    }
}

vectorised! {
    /// As [`transform_inputs`] for gradients of outputs.
    fn transform_output_gradients(image: &[f32], width: usize, channels: usize, tiles: Tiles, places: &mut [f32]) {
        let pitch = tiles.pitch(channels);
        for ty in 0..tiles.count.0 {
            for tx in 0..tiles.count.1 {
                for c in (0..channels).step_by(LANES) {
                    let from = &image[(ty * OUT * width + tx * OUT) * channels + c..];
                    let to = &mut places[(ty * tiles.count.1 + tx) * channels + c..];
                    two_dimensional(
                        OutputGradients,
                        |i, j| Lanes::load(&from[(i * width + j) * channels..]),
                        |i, j, x| x.store(&mut to[(i * IN + j) * pitch..]),
                    );
                }
            }
        }
    }
}

vectorised! {
    /// `places[place][tile][channel]` to a channels-last image as wide as the tiles.
    fn transform_outputs(places: &[f32], channels: usize, tiles: Tiles, image: &mut [f32]) {
        let (pitch, width) = (tiles.pitch(channels), tiles.count.1 * OUT);
        for ty in 0..tiles.count.0 {
            for tx in 0..tiles.count.1 {
                for c in (0..channels).step_by(LANES) {
                    let from = &places[(ty * tiles.count.1 + tx) * channels + c..];
                    let to = &mut image[(ty * OUT * width + tx * OUT) * channels + c..];
                    two_dimensional(
                        Outputs,
                        |i, j| Lanes::load(&from[(i * IN + j) * pitch..]),
                        |i, j, x| x.store(&mut to[(i * width + j) * channels..]),
                    );
                }
            }
        }
    }
}

vectorised! {
    /// `[3·3][…]` to `[36][…]`, 16 numbers at a time.
    fn transform_weights(weights: &[f32], places: &mut [f32]) {
        let len = weights.len() / (K * K);
        for i in (0..len).step_by(LANES) {
            two_dimensional(
                        Weights,
                |ky, kx| Lanes::load(&weights[(ky * K + kx) * len + i..]),
                |y, x, u| u.store(&mut places[(y * IN + x) * len + i..]),
            );
        }
    }
}

vectorised! {
    /// `[36][…]` to `[3·3][…]`, 16 numbers at a time.
    fn transform_weight_gradients(places: &[f32], weights: &mut [f32]) {
        let len = places.len() / PLACES;
        for i in (0..len).step_by(LANES) {
            two_dimensional(
                        WeightGradients,
                |y, x| Lanes::load(&places[(y * IN + x) * len + i..]),
                |ky, kx, g| g.store(&mut weights[(ky * K + kx) * len + i..]),
            );
        }
    }
}

/// The image `x` (C, H, W) with its channels last and padded, and zeros around it: `before` pixels above and to
/// the left, and as many below and to the right as fill the tiles and `before` more.
fn channels_last(isa: Isa, x: &[f32], channels: usize, tiles: Tiles, before: usize) -> Scratch {
    let pitch = channels.next_multiple_of(LANES);
    let (height, width) = (tiles.count.0 * OUT + 2 * before, tiles.count.1 * OUT + 2 * before);
    let mut image = Scratch::zeroed(height * width * pitch);
    let planes = Planes { plane: tiles.side.0 * tiles.side.1, channels, pixels: tiles.side.1 };
    let rows = image.chunks_exact_mut(width * pitch).skip(before).take(tiles.side.0);
    for (row, x) in rows.zip((0..).step_by(tiles.side.1).map(|begin| &x[begin..])) {
        to_channels_last(isa, x, planes, &mut row[before * pitch..], pitch);
    }
    image
}

/// Transforms the image `x` (C, H, W) to `places[place][tile][channel]`.
fn inputs_of(isa: Isa, x: &[f32], channels: usize, tiles: Tiles) -> Scratch {
    let pitch = channels.next_multiple_of(LANES);
    let image = channels_last(isa, x, channels, tiles, 1);
    let mut places = Scratch::new(PLACES * tiles.pitch(pitch));
    transform_inputs(isa, &image, tiles.count.1 * OUT + 2, pitch, tiles, &mut places);
    places
}

/// Whether the method is for this window, and pays.
pub(crate) fn applies(window: &Window, outputs: usize) -> bool {
    let axis = |a: &crate::window::Axis| {
        a.taps == K && a.first == -1 && a.stride == 1 && a.output == a.input && a.input >= OUT
    };
    axis(&window.h) && axis(&window.w) && window.channels >= LANES && outputs >= LANES
}

/// The weights of a convolution, transformed.
pub(crate) struct Winograd {
    isa: Isa,
    channels: usize,
    outputs: usize,
    tiles: Tiles,
    /// `[place][channel][output]`.
    weights: Scratch,
}

impl Winograd {
    /// `weight(output, channel, ky, kx)`, for a window to which the method applies.
    pub(crate) fn new(
        isa: Isa,
        window: &Window,
        outputs: usize,
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let (channels, padded) = (window.channels, outputs.next_multiple_of(LANES));
        let len = channels * padded;
        let mut plain = Scratch::zeroed(K * K * len);
        for c in 0..channels {
            for o in 0..outputs {
                for ky in 0..K {
                    for kx in 0..K {
                        plain[(ky * K + kx) * len + c * padded + o] = weight(o, c, ky, kx);
                    }
                }
            }
        }
        let mut weights = Scratch::new(PLACES * len);
        transform_weights(isa, &plain, &mut weights);
        let tiles = Tiles::new((window.h.input, window.w.input));
        Self { isa, channels, outputs, tiles, weights }
    }

    /// Convolves the image `x` (C, H, W) into `y` (outputs, H, W), starting from `bias` or from what is in `y`.
    pub(crate) fn run(&self, x: &[f32], y: &mut [f32], bias: Option<&[[f32; MR]]>) {
        let &Self { isa, channels, outputs, tiles, .. } = self;
        let (padded_in, padded_out) = (channels.next_multiple_of(LANES), outputs.next_multiple_of(LANES));
        let inputs = inputs_of(isa, x, channels, tiles);
        let (pitch_in, pitch_out) = (tiles.pitch(padded_in), tiles.pitch(padded_out));
        let mut sums = Scratch::new(PLACES * pitch_out);
        let weights = self.weights.chunks_exact(channels * padded_out);
        for ((a, c), b) in inputs.chunks_exact(pitch_in).zip(sums.chunks_exact_mut(pitch_out)).zip(weights) {
            let a = Factor { data: a, row: padded_in, term: 1 };
            product(isa, a, b, [tiles.len(), channels, padded_out], false, c);
        }
        let (height, width) = (tiles.count.0 * OUT, tiles.count.1 * OUT);
        let mut image = Scratch::new(height * width * padded_out);
        transform_outputs(isa, &sums, padded_out, tiles, &mut image);
        let planes = Planes { plane: tiles.side.0 * tiles.side.1, channels: outputs, pixels: tiles.side.1 };
        for (line, row) in image.chunks_exact(width * padded_out).take(tiles.side.0).enumerate() {
            let y = &mut y[line * tiles.side.1..];
            to_channels_first(isa, row, padded_out, bias, y, planes);
        }
    }
}

/// The gradient of a convolution's weights in the making.
pub(crate) struct WinogradSums {
    isa: Isa,
    /// Channels of the convolution's output.
    rows: usize,
    channels: usize,
    tiles: Tiles,
    /// `[place][channel][row]`.
    sums: Scratch,
}

impl WinogradSums {
    pub(crate) fn new(isa: Isa, window: &Window, rows: usize) -> Self {
        let sums = Scratch::zeroed(PLACES * window.channels * rows.next_multiple_of(LANES));
        let tiles = Tiles::new((window.h.input, window.w.input));
        Self { isa, rows, channels: window.channels, tiles, sums }
    }

    /// Adds an image: `small` (rows, H, W), the gradient of the output, and `large` (channels, H, W), the input.
    pub(crate) fn add(&mut self, small: &[f32], large: &[f32]) {
        let Self { isa, rows, channels, tiles, .. } = *self;
        let (padded_rows, padded) = (rows.next_multiple_of(LANES), channels.next_multiple_of(LANES));
        let inputs = inputs_of(isa, large, channels, tiles);
        let image = channels_last(isa, small, rows, tiles, 0);
        let mut gradients = Scratch::new(PLACES * tiles.pitch(padded_rows));
        transform_output_gradients(isa, &image, tiles.count.1 * OUT, padded_rows, tiles, &mut gradients);
        let sums = self.sums.chunks_exact_mut(channels * padded_rows);
        let places =
            inputs.chunks_exact(tiles.pitch(padded)).zip(gradients.chunks_exact(tiles.pitch(padded_rows)));
        for ((a, b), c) in places.zip(sums) {
            let a = Factor { data: a, row: 1, term: padded };
            product(isa, a, b, [channels, tiles.len(), padded_rows], true, c);
        }
    }

    /// The gradient as `[3·3][channel][row padded to 16]`.
    pub(crate) fn weights(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.sums.len() / PLACES * K * K];
        transform_weight_gradients(self.isa, &self.sums, &mut weights);
        weights
    }
}
