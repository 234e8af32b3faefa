//! The five linear maps of F(4 × 4, 3 × 3), 16 channels at a time.

use std::ops::{Add, Mul, Sub};

use crate::isa::vectorised;
use crate::micro::LANES;

/// Side of a tile of inputs, and of transformed ones.
const IN: usize = 6;
/// Side of a tile of outputs.
pub(super) const OUT: usize = 4;
/// Side of the kernel.
pub(super) const K: usize = 3;
/// Places in a transformed tile.
pub(super) const PLACES: usize = IN * IN;

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
pub(super) struct Tiles {
    /// Height and width of the image.
    pub(super) side: (usize, usize),
    /// Tiles downwards and across; together they may reach over the edge.
    pub(super) count: (usize, usize),
}

impl Tiles {
    pub(super) fn new(side: (usize, usize)) -> Self {
        Self { side, count: (side.0.div_ceil(OUT), side.1.div_ceil(OUT)) }
    }

    pub(super) fn len(&self) -> usize {
        self.count.0 * self.count.1
    }

    /// Floats from one place's matrix to the next one's; not a multiple of a page, so that the 36 stores of a
    /// tile do not compete for the same lines of the cache.
    pub(super) fn pitch(&self, channels: usize) -> usize {
        self.len() * channels + LANES
    }
}

vectorised! {
    /// Channels-last `image`, `width` pixels wide, to `places[place][tile][channel]`.
    pub(super) fn transform_inputs(image: &[f32], width: usize, channels: usize, tiles: Tiles, places: &mut [f32]) {
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
    pub(super) fn transform_output_gradients(image: &[f32], width: usize, channels: usize, tiles: Tiles, places: &mut [f32]) {
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
    pub(super) fn transform_outputs(places: &[f32], channels: usize, tiles: Tiles, image: &mut [f32]) {
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

/// Floats from one place's matrix of `len` weights to the next one's, for the reason given at [`Tiles::pitch`].
pub(super) fn weight_pitch(len: usize) -> usize {
    len + LANES
}

vectorised! {
    /// `[3·3][…]` to `[36][…]`, 16 numbers at a time, both at [`weight_pitch`].
    pub(super) fn transform_weights(weights: &[f32], len: usize, places: &mut [f32]) {
        let pitch = weight_pitch(len);
        for i in (0..len).step_by(LANES) {
            two_dimensional(
                Weights,
                |ky, kx| Lanes::load(&weights[(ky * K + kx) * pitch + i..]),
                |y, x, u| u.store(&mut places[(y * IN + x) * pitch + i..]),
            );
        }
    }
}

vectorised! {
    /// `[36][…]` at [`weight_pitch`] to a dense `[3·3][…]`, 16 numbers at a time.
    pub(super) fn transform_weight_gradients(places: &[f32], len: usize, weights: &mut [f32]) {
        let pitch = weight_pitch(len);
        for i in (0..len).step_by(LANES) {
            two_dimensional(
                WeightGradients,
                |y, x| Lanes::load(&places[(y * IN + x) * pitch + i..]),
                |ky, kx, g| g.store(&mut weights[(ky * K + kx) * len + i..]),
            );
        }
    }
}
