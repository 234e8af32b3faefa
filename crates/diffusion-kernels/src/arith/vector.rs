//! Short loops over slices, compiled for each instruction set.

use std::ops::Range;

use crate::arith::isa::vectorised;
use crate::arith::lanes::Lanes;

/// The number of floats that channels are padded to a multiple of: one AVX-512 register or two AVX2
/// ones.
pub(crate) const LANES: usize = 16;

/// `numbers`, padded with zeros to whole vectors.
pub(crate) fn padded(numbers: &[f32]) -> Vec<f32> {
    let mut padded = numbers.to_vec();
    padded.resize(numbers.len().next_multiple_of(LANES), 0.0);
    padded
}

vectorised! {
    pub(crate) fn add(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

/// The vector that begins at `i`.
#[inline(always)]
pub(crate) fn at(x: &[f32], i: usize) -> &[f32; LANES] {
    x[i..].first_chunk().expect("whole vectors")
}

/// Sums the N numbers `f(index of a vector, its first channel)` over pixels, channels last, and
/// adds the sums to the channels of `totals`. The order of additions depends only on the number of
/// pixels. `len` is the number of floats in all pixels.
#[inline(always)]
pub(crate) fn over_pixels<L: Lanes, const N: usize>(
    len: usize,
    totals: [&mut [f32]; N],
    mut f: impl FnMut(usize, usize) -> [L; N],
) {
    const ACCUMULATORS: usize = 4;
    // Rounding errors grow with the number of terms of a sum, so long sums are sums of block sums.
    const BLOCK: usize = 64 * ACCUMULATORS;
    let pitch = totals[0].len();
    let pixels = len / pitch;
    for c in (0..pitch).step_by(LANES) {
        let mut total = [L::ZERO; N];
        for first in (0..pixels).step_by(BLOCK) {
            let mut sums = [[L::ZERO; ACCUMULATORS]; N];
            let end = (first + BLOCK).min(pixels);
            for pixel in (first..end).step_by(ACCUMULATORS) {
                for k in 0..ACCUMULATORS {
                    if pixel + k < end {
                        let numbers = f((pixel + k) * pitch + c, c);
                        for n in 0..N {
                            sums[n][k] = sums[n][k].add(numbers[n]);
                        }
                    }
                }
            }
            for n in 0..N {
                let [a, b, c, d] = sums[n];
                total[n] = total[n].add(a.add(b).add(c.add(d)));
            }
        }
        for n in 0..N {
            L::load(&totals[n][c..]).add(total[n]).store(&mut totals[n][c..]);
        }
    }
}

vectorised! {
    /// Sums pixels, channels last, and adds the sums to the channels of `totals`.
    pub(crate) fn add_up(x: &[f32], totals: &mut [f32]) {
        over_pixels(x.len(), [totals], |i, _| [L::load(&x[i..])]);
    }
}

/// The number of parallel sums in a reduction. A constant: the order of additions is the same
/// everywhere.
const ACCUMULATORS: usize = 32;

/// Adds `sums` up in a fixed tree.
#[inline(always)]
pub(crate) fn fold(mut sums: [f32; ACCUMULATORS]) -> f32 {
    let mut n = ACCUMULATORS / 2;
    while n > 0 {
        for i in 0..n {
            sums[i] += sums[i + n];
        }
        n /= 2;
    }
    sums[0]
}

/// The sum of `f` over `x`, in an order that depends only on the length.
#[inline(always)]
pub(crate) fn map_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; ACCUMULATORS];
    let (blocks, rest) = x.as_chunks::<ACCUMULATORS>();
    for block in blocks {
        for i in 0..ACCUMULATORS {
            sums[i] += f(block[i]);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f(*x);
    }
    fold(sums)
}

/// The sum of `f(x, y)` over pairs, in an order that depends only on their number.
#[inline(always)]
pub(crate) fn map_sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0; ACCUMULATORS];
    let ((xs, x_rest), (ys, y_rest)) =
        (x.as_chunks::<ACCUMULATORS>(), y.as_chunks::<ACCUMULATORS>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..ACCUMULATORS {
            sums[i] += f(x[i], y[i]);
        }
    }
    for ((sum, x), y) in sums.iter_mut().zip(x_rest).zip(y_rest) {
        *sum += f(*x, *y);
    }
    fold(sums)
}

#[inline(always)]
fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Where e^x is a normal number.
pub(crate) const EXP_RANGE: Range<f32> = -87.0..88.0;
/// ln 2 as the sum of a number with few bits and a small one.
pub(crate) const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// The coefficients of (e^r − 1 − r)/r² for |r| up to ln(2)/2, the highest power first.
pub(crate) const EXP_TERMS: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];

/// e^x to about 2 ulp by range reduction and a polynomial (Cephes `expf`), in a form that compilers
/// vectorise. The result is 0 below −87 and infinite above 88, near the ends of the normal range.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let (unclamped, x) = (x, x.clamp(EXP_RANGE.start, EXP_RANGE.end));
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2[0], x);
    let r = mul_add::<FMA>(n, -LN2[1], r);
    let mut p = EXP_TERMS[0];
    for term in &EXP_TERMS[1..] {
        p = mul_add::<FMA>(p, r, *term);
    }
    let p = mul_add::<FMA>(p, r * r, r) + 1.0;
    // 2ⁿ, built from its exponent bits.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    let bounded = if unclamped < EXP_RANGE.start { 0.0 } else { p * scale };
    if unclamped > EXP_RANGE.end { f32::INFINITY } else { bounded }
}

/// `1 / (1 + e^−x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// The derivative of `x · sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu_slope<const FMA: bool>(x: f32) -> f32 {
    silu_slope_at::<FMA>(x, sigmoid::<FMA>(x))
}

/// The derivative of `x · sigmoid(x)`, given `s = sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu_slope_at<const FMA: bool>(x: f32, s: f32) -> f32 {
    s * mul_add::<FMA>(x, 1.0 - s, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_three_ulp_of_the_true_value() {
        for i in -8700..=8700 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            for y in [exp::<false>(x), exp::<true>(x)] {
                let error = (f64::from(y) - exact).abs() / exact;
                assert!(error < 3.0 * f64::from(f32::EPSILON), "exp({x}) = {y}, off by {error:e}");
            }
        }
    }

    #[test]
    fn sigmoid_saturates_within_its_range() {
        for x in [-3e38, -1e30, -100.0, -88.0, 88.0, 100.0, 1e30, 3e38] {
            let y = sigmoid::<false>(x);
            assert!((0.0..=1.0).contains(&y), "sigmoid({x}) = {y}");
            let (silu, slope) = (x * y, silu_slope::<false>(x));
            let expected = if x < 0.0 { (0.0, 0.0) } else { (x, 1.0) };
            assert!(
                (silu - expected.0).abs() < 1e-30 && (slope - expected.1).abs() < 1e-30,
                "{x}: {silu}, {slope}"
            );
        }
    }
}
