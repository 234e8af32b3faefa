//! Group normalisation and SiLU of images with channels last, one pixel's channels padded to whole vectors.

use crate::isa::{Isa, vectorised};
use crate::scratch::Scratch;
use crate::vector::{LANES, add_up, at, over_pixels, sigmoid, silu_slope_at};
use crate::winograd::Canvas;

/// A normalisation with its parameters.
pub(super) struct Norm<'a> {
    pub isa: Isa,
    pub groups: usize,
    pub eps: f32,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
}

/// What the backward pass of one image needs, each a number a channel.
pub(super) struct Statistics {
    mean: Scratch,
    /// 1 / √(variance + eps).
    scale: Scratch,
}

impl Norm<'_> {
    fn pitch(&self) -> usize {
        self.weight.len().next_multiple_of(LANES)
    }

    /// Replaces each group's numbers by their sum divided by `by`.
    fn over_groups(&self, channels: &mut [f32], by: f32) {
        for group in channels[..self.weight.len()].chunks_exact_mut(self.weight.len() / self.groups) {
            let mean = group.iter().sum::<f32>() / by;
            group.fill(mean);
        }
    }

    fn statistics(&self, x: &[f32]) -> Statistics {
        let pitch = self.pitch();
        let count = (x.len() / pitch * (self.weight.len() / self.groups)) as f32;
        let (mut mean, mut scale) = (Scratch::zeroed(pitch), Scratch::zeroed(pitch));
        add_up(self.isa, x, &mut mean);
        self.over_groups(&mut mean, count);
        squares(self.isa, x, &mean, &mut scale);
        self.over_groups(&mut scale, count);
        for scale in &mut scale[..self.weight.len()] {
            *scale = 1.0 / (*scale + self.eps).sqrt();
        }
        Statistics { mean, scale }
    }

    /// What turns x into the normalised x: a factor and a summand a channel, 0 for the padding.
    fn affine(&self, statistics: &Statistics) -> [Scratch; 2] {
        let (mut factor, mut summand) = (Scratch::zeroed(self.pitch()), Scratch::zeroed(self.pitch()));
        for c in 0..self.weight.len() {
            factor[c] = statistics.scale[c] * self.weight[c];
            summand[c] = self.bias[c] - statistics.mean[c] * factor[c];
        }
        [factor, summand]
    }

    /// Normalises and activates the image `x` onto `canvas`.
    pub(super) fn forward(&self, x: &[f32], canvas: &mut Canvas, image: usize) {
        let [factor, summand] = self.affine(&self.statistics(x));
        let row = canvas.row(image, 0).len();
        for (y, x) in x.chunks_exact(row).enumerate() {
            activate(self.isa, x, &factor, &summand, canvas.row_mut(image, y));
        }
    }

    /// As [`Self::forward`], and the activation's slopes for [`Self::backward`].
    pub(super) fn forward_with_slopes(
        &self,
        x: &[f32],
        canvas: &mut Canvas,
        image: usize,
        slopes: &mut [f32],
    ) -> Statistics {
        let statistics = self.statistics(x);
        let [factor, summand] = self.affine(&statistics);
        let row = canvas.row(image, 0).len();
        for (y, (x, slopes)) in x.chunks_exact(row).zip(slopes.chunks_exact_mut(row)).enumerate() {
            activate_with_slopes(self.isa, x, &factor, &summand, canvas.row_mut(image, y), slopes);
        }
        statistics
    }

    /// The gradient of the image `x`, from that of the result in `dy`, which becomes dz: what is left to do, pixel by pixel.
    /// Weight's and bias' gradients are added to `sums` as pairs.
    ///
    /// With x̂ = (x − μ)/σ, z = w·x̂ + b and dz = dy · silu'(z), averages over the group's elements:
    /// dx = (w·dz − mean(w·dz) − x̂·mean(w·dz·x̂)) / σ.
    pub(super) fn backward(
        &self,
        x: &[f32],
        statistics: &Statistics,
        slopes: &[f32],
        dy: &mut [f32],
        sums: &mut [[f32; 2]],
    ) -> Combination {
        let (pitch, channels) = (self.pitch(), self.weight.len());
        let Statistics { mean, scale } = statistics;
        let (mut alone, mut with_x) = (Scratch::zeroed(pitch), Scratch::zeroed(pitch));
        slope_sums(self.isa, x, mean, slopes, dy, &mut alone, &mut with_x);
        let count = (x.len() / pitch * (channels / self.groups)) as f32;
        for c in 0..channels {
            with_x[c] *= scale[c];
            sums[c][0] += with_x[c];
            sums[c][1] += alone[c];
            with_x[c] *= self.weight[c];
            alone[c] *= self.weight[c];
        }
        self.over_groups(&mut alone, count);
        self.over_groups(&mut with_x, count);
        let mut factors = [(); 3].map(|()| Scratch::zeroed(pitch));
        for c in 0..channels {
            // dx = scale·w·dz − scale·alone − scale²·with_x·(x − mean)
            let slope = -scale[c] * scale[c] * with_x[c];
            factors[0][c] = scale[c] * self.weight[c];
            factors[1][c] = slope;
            factors[2][c] = -scale[c] * alone[c] - slope * mean[c];
        }
        Combination { isa: self.isa, factors }
    }
}

/// The last step of a backward pass: dx = a·dz + b·x + c, each a number a channel.
pub(super) struct Combination {
    isa: Isa,
    factors: [Scratch; 3],
}

impl Combination {
    /// Writes some pixels' gradients to `dx` and adds them up, channel by channel, onto `totals`.
    pub(super) fn write(&self, dz: &[f32], x: &[f32], dx: &mut [f32], totals: &mut [f32]) {
        let [a, b, c] = &self.factors;
        combine(self.isa, dz, x, [a, b, c], dx, totals);
    }
}

vectorised! {
    fn squares(x: &[f32], mean: &[f32], totals: &mut [f32]) {
        over_pixels(x.len(), totals, |i, c| {
            let (mut x, mean) = (*at(x, i), at(mean, c));
            for l in 0..LANES {
                let d = x[l] - mean[l];
                x[l] = d * d;
            }
            x
        });
    }
}

vectorised! {
    fn activate(x: &[f32], factor: &[f32], summand: &[f32], y: &mut [f32]) {
        let pitch = factor.len();
        for (x, y) in x.chunks_exact(pitch).zip(y.chunks_exact_mut(pitch)) {
            for c in (0..pitch).step_by(LANES) {
                let (x, factor, summand) = (at(x, c), at(factor, c), at(summand, c));
                for l in 0..LANES {
                    let z = x[l] * factor[l] + summand[l];
                    y[c + l] = z * sigmoid::<FMA>(z);
                }
            }
        }
    }
}

vectorised! {
    fn activate_with_slopes(x: &[f32], factor: &[f32], summand: &[f32], y: &mut [f32], slopes: &mut [f32]) {
        let pitch = factor.len();
        let pixels = x.chunks_exact(pitch).zip(y.chunks_exact_mut(pitch)).zip(slopes.chunks_exact_mut(pitch));
        for ((x, y), slopes) in pixels {
            for c in (0..pitch).step_by(LANES) {
                let (x, factor, summand) = (at(x, c), at(factor, c), at(summand, c));
                for l in 0..LANES {
                    let z = x[l] * factor[l] + summand[l];
                    let s = sigmoid::<FMA>(z);
                    y[c + l] = z * s;
                    slopes[c + l] = silu_slope_at::<FMA>(z, s);
                }
            }
        }
    }
}

vectorised! {
    /// Multiplies `dy` by the slopes; adds it up, and its product with x − mean.
    fn slope_sums(
        x: &[f32], mean: &[f32], slopes: &[f32], dy: &mut [f32], alone: &mut [f32], with_x: &mut [f32],
    ) {
        for (dz, slope) in dy.iter_mut().zip(slopes) {
            *dz *= slope;
        }
        over_pixels(x.len(), alone, |i, _| *at(dy, i));
        over_pixels(x.len(), with_x, |i, c| {
            let (mut x, mean, dz) = (*at(x, i), at(mean, c), at(dy, i));
            for l in 0..LANES {
                x[l] = dz[l] * (x[l] - mean[l]);
            }
            x
        });
    }
}

vectorised! {
    fn combine(dz: &[f32], x: &[f32], factors: [&[f32]; 3], dx: &mut [f32], totals: &mut [f32]) {
        let [a, b, c] = factors;
        over_pixels(x.len(), totals, |i, channel| {
            let (dz, x) = (at(dz, i), at(x, i));
            let (a, b, c) = (at(a, channel), at(b, channel), at(c, channel));
            let mut result = [0.0; LANES];
            for l in 0..LANES {
                result[l] = dz[l] * a[l] + (x[l] * b[l] + c[l]);
            }
            dx[i..i + LANES].copy_from_slice(&result);
            result
        });
    }
}
