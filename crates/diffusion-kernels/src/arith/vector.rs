//! Short loops over slices that every operation needs, compiled for each instruction set.

use crate::arith::isa::vectorised;

/// Lanes of the vectors that everything is padded to: one of AVX-512, two of AVX2.
pub(crate) const LANES: usize = 16;

/// `numbers` filled up with zeros to whole vectors.
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

/// Adds `f(index of a vector, its first channel)` over pixels with channels last to each channel of `totals`, in an order
/// that depends on their number only. `len` floats in all.
#[inline(always)]
pub(crate) fn over_pixels(
    len: usize,
    totals: &mut [f32],
    mut f: impl FnMut(usize, usize) -> [f32; LANES],
) {
    const WAYS: usize = 4;
    // Rounding errors grow with the number of terms of a sum: of many pixels, sums of blocks are added up.
    const BLOCK: usize = 64 * WAYS;
    let (pitch, pixels) = (totals.len(), len / totals.len());
    for c in (0..pitch).step_by(LANES) {
        let mut total = [0f32; LANES];
        for first in (0..pixels).step_by(BLOCK) {
            let mut ways = [[0f32; LANES]; WAYS];
            let mut add = |way: usize, pixel: usize| {
                let x = f(pixel * pitch + c, c);
                for l in 0..LANES {
                    ways[way][l] += x[l];
                }
            };
            let end = (first + BLOCK).min(pixels);
            let whole = first + (end - first) / WAYS * WAYS;
            for pixel in (first..whole).step_by(WAYS) {
                for way in 0..WAYS {
                    add(way, pixel + way);
                }
            }
            for pixel in whole..end {
                add(pixel % WAYS, pixel);
            }
            for l in 0..LANES {
                total[l] += (ways[0][l] + ways[1][l]) + (ways[2][l] + ways[3][l]);
            }
        }
        for l in 0..LANES {
            totals[c + l] += total[l];
        }
    }
}

vectorised! {
    /// Adds up pixels with channels last onto `totals`, channel by channel.
    pub(crate) fn add_up(x: &[f32], totals: &mut [f32]) {
        over_pixels(x.len(), totals, |i, _| *at(x, i));
    }
}

/// Running sums side by side in a reduction; a constant, so that the order of additions is one on all machines.
const WAYS: usize = 32;

/// Adds up `ways` in a fixed tree.
#[inline(always)]
pub(crate) fn fold(mut ways: [f32; WAYS]) -> f32 {
    let mut n = WAYS / 2;
    while n > 0 {
        for i in 0..n {
            ways[i] += ways[i + n];
        }
        n /= 2;
    }
    ways[0]
}

/// The sum of `f` over `x`, in an order that depends on its length only.
#[inline(always)]
pub(crate) fn map_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut ways = [0.0; WAYS];
    let (blocks, rest) = x.as_chunks::<WAYS>();
    for block in blocks {
        for i in 0..WAYS {
            ways[i] += f(block[i]);
        }
    }
    for (way, x) in ways.iter_mut().zip(rest) {
        *way += f(*x);
    }
    fold(ways)
}

/// The sum of `f(x, y)` over pairs, in an order that depends on their number only.
#[inline(always)]
pub(crate) fn map_sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut ways = [0.0; WAYS];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<WAYS>(), y.as_chunks::<WAYS>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..WAYS {
            ways[i] += f(x[i], y[i]);
        }
    }
    for ((way, x), y) in ways.iter_mut().zip(x_rest).zip(y_rest) {
        *way += f(*x, *y);
    }
    fold(ways)
}

#[inline(always)]
fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e^x to about 2 ulp by range reduction and a polynomial (Cephes `expf`), in a form that compilers vectorise.
/// 0 below −87 and infinite above 88, beyond which nothing normal is left.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let (all, x) = (x, x.clamp(-87.0, 88.0));
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2_HI, x);
    let r = mul_add::<FMA>(n, -LN2_LO, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = mul_add::<FMA>(p, r, c);
    }
    let p = mul_add::<FMA>(p, r * r, r) + 1.0;
    // 2ⁿ, by its exponent.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    let inside = if all < -87.0 { 0.0 } else { p * scale };
    if all > 88.0 { f32::INFINITY } else { inside }
}

/// 1 / (1 + e^−x).
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// The derivative of x · sigmoid(x).
#[inline(always)]
pub(crate) fn silu_slope<const FMA: bool>(x: f32) -> f32 {
    silu_slope_at::<FMA>(x, sigmoid::<FMA>(x))
}

/// The derivative of x · sigmoid(x), given s = sigmoid(x).
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
    fn sigmoid_saturates_without_leaving_its_range() {
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
