//! The five linear maps of F(4 × 4, 3 × 3), for 16 channels at a time.

// A product of polynomials is computed from its values at six points. The usual ones are 0, ±1, ±2
// and ∞. Here they are 0, ±a, ±b and ∞ with a = 1/√2 and b = √2:
//
//     Aᵀ row i = 0ⁱ, aⁱ, (−a)ⁱ, bⁱ, (−b)ⁱ, and 1 if i = 3, else 0;  i = 0..4
//     Bᵀ       = coefficients of P = (x² − a²)(x² − b²) = x⁴ − 2.5x² + 1 for the point 0,
//                of x·P/(x − p) for p = ±a, ±b, and of x·P for ∞
//     G        = the kernel's polynomial g₀ + g₁x + g₂x² at the points, divided by −3/2 for ±a
//                and by 6 for ±b; g₀ for 0 and g₂ for ∞
//
// 1. No power is far from 1: those in Aᵀ range from a³ = 0.35 to b³ = 2.8, where ±2 would give 8.
//    The rounding errors are therefore two to three times smaller than at 0, ±1, ±2, ∞.
// 2. b = 2a and ab = 1 keep the factors short: 0.5, 2, 2.5, 2/3, 1/6, a and b.
// 3. The points ±p share work: the even terms s and the odd terms u are summed once, for both
//    s + p·u and s − p·u.
// 4. Each map acts on columns and then on rows, as T X Tᵀ requires.

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};
use std::mem::MaybeUninit;
use std::ops::Range;

use super::canvas::{Canvas, OUT, Tiles};
use crate::arith::format::{Format, Part};
use crate::arith::isa::vectorised;
use crate::arith::lanes::Lanes;
use crate::arith::vector::LANES;

/// Side of an input tile and of a transformed tile.
const IN: usize = 6;
/// Side of the kernel.
pub(super) const K: usize = 3;
/// The number of places in a transformed tile.
pub(super) const PLACES: usize = IN * IN;

/// A linear map from M numbers to N, for 16 channels at a time.
///
/// It is a type, not a function value, so that it is inlined into the functions with wide
/// instructions.
trait Transform<const M: usize, const N: usize> {
    fn apply<L: Lanes>(x: [L; M]) -> [L; N];
}

/// Bᵀ, which transforms inputs.
#[derive(Clone, Copy)]
struct Inputs;

impl Transform<IN, IN> for Inputs {
    #[inline(always)]
    fn apply<L: Lanes>([d0, d1, d2, d3, d4, d5]: [L; IN]) -> [L; IN] {
        let (s, u) = (d4.plus(-2.0, d2), d3.plus(-2.0, d1));
        let (t, v) = (d4.plus(-0.5, d2), d3.plus(-0.5, d1));
        [
            d0.add(d4).plus(-2.5, d2),
            s.plus(A, u),
            s.plus(-A, u),
            t.plus(B, v),
            t.plus(-B, v),
            d1.add(d5).plus(-2.5, d3),
        ]
    }
}

/// Aᵀ, which transforms products to outputs.
struct Outputs;

impl Transform<IN, OUT> for Outputs {
    #[inline(always)]
    fn apply<L: Lanes>([m0, m1, m2, m3, m4, m5]: [L; IN]) -> [L; OUT] {
        let (p, q, r, s) = (m1.add(m2), m1.sub(m2), m3.add(m4), m3.sub(m4));
        [
            m0.add(p).add(r),
            q.times(A).plus(B, s),
            p.times(0.5).plus(2.0, r),
            m5.plus(0.5 * A, q).plus(2.0 * B, s),
        ]
    }
}

/// A, which transforms gradients of outputs.
#[derive(Clone, Copy)]
struct OutputGradients;

impl Transform<OUT, IN> for OutputGradients {
    #[inline(always)]
    fn apply<L: Lanes>([y0, y1, y2, y3]: [L; OUT]) -> [L; IN] {
        let (p, q) = (y0.plus(0.5, y2), y1.plus(0.5, y3));
        let (r, s) = (y0.plus(2.0, y2), y1.plus(2.0, y3));
        [y0, p.plus(A, q), p.plus(-A, q), r.plus(B, s), r.plus(-B, s), y3]
    }
}

/// G, which transforms weights.
struct Weights;

impl Transform<K, IN> for Weights {
    #[inline(always)]
    fn apply<L: Lanes>([g0, g1, g2]: [L; K]) -> [L; IN] {
        let (p, q) = (g0.plus(0.5, g2).times(-2.0 / 3.0), g1.times(-2.0 / 3.0 * A));
        let (r, s) = (g0.plus(2.0, g2).times(1.0 / 6.0), g1.times(1.0 / 6.0 * B));
        [g0, p.add(q), p.sub(q), r.add(s), r.sub(s), g2]
    }
}

/// Gᵀ, which transforms gradients of transformed weights.
struct WeightGradients;

impl Transform<IN, K> for WeightGradients {
    #[inline(always)]
    fn apply<L: Lanes>([u0, u1, u2, u3, u4, u5]: [L; IN]) -> [L; K] {
        let (p, q, r, s) = (u1.add(u2), u1.sub(u2), u3.add(u4), u3.sub(u4));
        [
            u0.plus(-2.0 / 3.0, p).plus(1.0 / 6.0, r),
            q.times(-2.0 / 3.0 * A).plus(1.0 / 6.0 * B, s),
            u5.plus(1.0 / 3.0, r.sub(p)),
        ]
    }
}

/// Applies a transform to the columns and then to the rows.
#[inline(always)]
#[allow(unsafe_code)]
fn two_dimensional<T: Transform<M, N>, L: Lanes, const M: usize, const N: usize>(
    _: T,
    load: impl Fn(usize, usize) -> L,
    mut store: impl FnMut(usize, usize, L),
) {
    // Zeros in place of uninitialised memory would be written in each call.
    let mut half = [[MaybeUninit::uninit(); M]; N];
    for j in 0..M {
        let mut column = [L::ZERO; M];
        for i in 0..M {
            column[i] = load(i, j);
        }
        let column = T::apply::<L>(column);
        for i in 0..N {
            half[i][j] = MaybeUninit::new(column[i]);
        }
    }
    for i in 0..N {
        let mut row = [L::ZERO; M];
        for j in 0..M {
            // SAFETY: the loop above has written all of it.
            row[j] = unsafe { half[i][j].assume_init() };
        }
        let row = T::apply::<L>(row);
        for j in 0..N {
            store(i, j, row[j]);
        }
    }
}

/// Applies a transform and writes the results to places, which are `pitch` words apart.
#[inline(always)]
fn to_places<T: Transform<M, IN>, L: Lanes, const M: usize>(
    transform: T,
    load: impl Fn(usize, usize) -> L,
    part: Part,
    words: &mut [f32],
    pitch: usize,
) {
    two_dimensional::<_, L, M, IN>(transform, load, |i, j, x| {
        x.write(part, &mut words[(i * IN + j) * pitch..]);
    });
}

/// Like [`to_places`], for two sets of numbers that become pairs.
#[inline(always)]
#[allow(unsafe_code)]
fn pairs_to_places<T: Transform<M, IN> + Copy, L: Lanes, const M: usize>(
    transform: T,
    [first, second]: [impl Fn(usize, usize) -> L; 2],
    words: &mut [f32],
    pitch: usize,
) {
    let mut firsts = [[MaybeUninit::uninit(); IN]; IN];
    two_dimensional::<_, L, M, IN>(transform, first, |i, j, x| firsts[i][j] = MaybeUninit::new(x));
    two_dimensional::<_, L, M, IN>(transform, second, |i, j, x| {
        // SAFETY: the first transform has written all of it.
        let first: L = unsafe { firsts[i][j].assume_init() };
        first.pair(x).store(&mut words[(i * IN + j) * pitch..]);
    });
}

/// Transforms the tiles of 16 channels that `from` returns to words of `packing`.
#[inline(always)]
fn tiles_to_places<'a, T: Transform<M, IN> + Copy, L: Lanes, const M: usize>(
    transform: T,
    [tiles, channels]: [usize; 2],
    from: impl Fn(usize, usize) -> &'a [f32],
    [row, pixel]: [usize; 2],
    packing: Packing,
    places: &mut [f32],
    pitch: usize,
) {
    let load = |tile, c| {
        let from = from(tile, c);
        move |i, j| L::load(&from[i * row + j * pixel..])
    };
    let [tiles_together, channels_together] = packing.together();
    for t in (0..tiles).step_by(tiles_together) {
        for c in (0..channels).step_by(channels_together * LANES) {
            let (word, part) = packing.place(t, c, channels);
            let words = &mut places[word..];
            let partner = (t + tiles_together - 1, c + (channels_together - 1) * LANES);
            if partner != (t, c) && partner.0 < tiles && partner.1 < channels {
                let loads = [load(t, c), load(partner.0, partner.1)];
                pairs_to_places::<_, L, M>(transform, loads, words, pitch);
            } else {
                to_places::<_, L, M>(transform, load(t, c), part, words, pitch);
            }
        }
    }
}

/// The layout of transformed tiles, `[place][tile][channel]`, as words.
#[derive(Clone, Copy)]
pub(super) enum Packing {
    /// For sums over channels.
    Channels(Format),
    /// For sums over tiles.
    Tiles(Format),
}

impl Packing {
    /// The number of words of a place of `tiles` tiles.
    pub(super) fn len(self, tiles: usize, channels: usize) -> usize {
        match self {
            Self::Channels(format) => tiles * format.channels(channels),
            Self::Tiles(format) => format.rows(tiles) * channels,
        }
    }

    /// The numbers of tiles and of vectors of channels that share words.
    #[inline(always)]
    fn together(self) -> [usize; 2] {
        match self {
            Self::Channels(format) => [1, format.numbers()],
            Self::Tiles(format) => [format.numbers(), 1],
        }
    }

    /// The first word of 16 channels of a tile, and the part of the words.
    #[inline(always)]
    fn place(self, tile: usize, c: usize, channels: usize) -> (usize, Part) {
        match self {
            Self::Channels(format) => {
                let (word, part) = format.channel(c);
                (tile * format.channels(channels) + word, part)
            }
            Self::Tiles(format) => {
                let (row, part) = format.row(tile);
                (row * channels + c, part)
            }
        }
    }
}

/// The distance between the matrices of two places, of `len` floats each. It is not a multiple of a
/// page, so that the 36 stores of a tile do not compete for the same cache lines.
pub(super) fn place_pitch(len: usize) -> usize {
    len + LANES
}

vectorised! {
    pairs:
    /// Transforms the tiles `first..first + count` of `canvas` to `places[place][tile][channel]`.
    /// Places are `pitch` floats apart.
    pub(super) fn transform_inputs(
        canvas: &Canvas, first: usize, count: usize, packing: Packing, places: &mut [f32], pitch: usize,
    ) {
        let (from, strides) = (|t, c| &canvas.tile(first + t, 0)[c..], [canvas.row_pitch(), canvas.pitch()]);
        tiles_to_places::<_, L, IN>(Inputs, [count, canvas.pitch()], from, strides, packing, places, pitch);
    }
}

vectorised! {
    pairs:
    /// Like [`transform_inputs`], for gradients of outputs, which have no border, and sums over
    /// tiles.
    pub(super) fn transform_output_gradients(
        canvas: &Canvas, first: usize, count: usize, format: Format, places: &mut [f32], pitch: usize,
    ) {
        let (from, strides) = (|t, c| &canvas.tile(first + t, 1)[c..], [canvas.row_pitch(), canvas.pitch()]);
        let packing = Packing::Tiles(format);
        tiles_to_places::<_, L, OUT>(OutputGradients, [count, canvas.pitch()], from, strides, packing, places, pitch);
    }
}

/// Sums of products, `places[place][tile][channel]`; places are `pitch` floats apart.
#[derive(Clone, Copy)]
pub(super) struct Products<'a> {
    pub places: &'a [f32],
    pub pitch: usize,
    pub channels: usize,
}

vectorised! {
    /// Transforms products to the tiles `first..first + count` of `y`: images with channels last,
    /// and the number of floats between two pixels. `start` is added to the channels, for each
    /// image or for all; those of two images are as far apart as two pixels.
    pub(super) fn transform_outputs(
        products: Products<'_>, start: &[f32], tiles: Tiles, first: usize, count: usize, y: (&mut [f32], usize),
    ) {
        let (y, pixel) = y;
        let Products { places, pitch, channels } = products;
        let (height, width) = tiles.side;
        let images = start.len().div_ceil(pixel);
        for t in 0..count {
            let (image, top, left) = tiles.position(first + t);
            let (rows, columns) = ((height - top).min(OUT), (width - left).min(OUT));
            let begin = ((image * height + top) * width + left) * pixel;
            for c in (0..channels).step_by(LANES) {
                let from = &places[t * channels + c..];
                let to = &mut y[begin + c..];
                let start = L::load(&start[image % images * pixel + c..]);
                two_dimensional::<_, L, IN, OUT>(
                    Outputs,
                    |i, j| L::load(&from[(i * IN + j) * pitch..]),
                    |i, j, x: L| if i < rows && j < columns {
                        start.add(x).store(&mut to[(i * width + j) * pixel..]);
                    },
                );
            }
        }
    }
}

vectorised! {
    pairs:
    /// Transforms the `columns` of `[channel][3·3][outputs]` to `[36][channel][columns]`, words of
    /// `format` with places at [`place_pitch`]. `rotated` turns the kernels by half a turn.
    pub(super) fn transform_weights(
        weights: &[f32], outputs: usize, columns: Range<usize>, rotated: bool, format: Format, places: &mut [f32],
    ) {
        let (channels, width) = (weights.len() / (K * K * outputs), columns.len());
        let pitch = place_pitch(format.channels(channels) * width);
        for (c, weights) in weights.chunks_exact(K * K * outputs).enumerate() {
            let (row, part) = format.channel(c);
            for o in (0..width).step_by(LANES) {
                let from = &weights[columns.start + o..];
                let load = |ky, kx| {
                    let tap = ky * K + kx;
                    let tap = if rotated { K * K - 1 - tap } else { tap };
                    L::load(&from[tap * outputs..])
                };
                to_places::<_, L, K>(Weights, load, part, &mut places[row * width + o..], pitch);
            }
        }
    }
}

vectorised! {
    /// Transforms `[36][term][outputs]`, places `pitch` floats apart, to `[term][3·3][outputs]`,
    /// for as many terms as `weights` holds.
    pub(super) fn transform_weight_gradients(places: &[f32], pitch: usize, outputs: usize, weights: &mut [f32]) {
        for (term, weights) in weights.chunks_exact_mut(K * K * outputs).enumerate() {
            for o in (0..outputs).step_by(LANES) {
                let from = &places[term * outputs + o..];
                two_dimensional::<_, L, IN, K>(
                    WeightGradients,
                    |y, x| L::load(&from[(y * IN + x) * pitch..]),
                    |ky, kx, g: L| g.store(&mut weights[(ky * K + kx) * outputs + o..]),
                );
            }
        }
    }
}
