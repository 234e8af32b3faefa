//! Group normalisation of one image, fused with modulation and activation. Images have channels
//! last, padded to whole vectors.

use crate::arith::isa::{Isa, vectorised};
use crate::arith::vector::{LANES, add_up, at, over_pixels, silu_slope_at};
use crate::image::mask::ImageMask;
use crate::memory::scratch::Scratch;

/// A normalisation with its parameters.
pub(crate) struct Norm<'a> {
    pub isa: Isa,
    pub groups: usize,
    pub eps: f32,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
}

/// The weight and bias of a normalisation, and the modulation of one image that follows it:
/// channels times 1 + scale, plus shift (adaptive group normalisation, Dhariwal & Nichol 2021).
#[derive(Clone, Copy)]
pub(crate) struct Modulated<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    /// The scales of all channels, then the shifts. Empty for no modulation.
    pub modulation: &'a [f32],
}

impl Modulated<'_> {
    /// The weight and bias that include the modulation.
    pub(crate) fn effective(&self) -> [Vec<f32>; 2] {
        if self.modulation.is_empty() {
            return [self.weight.to_vec(), self.bias.to_vec()];
        }
        let (scale, shift) = self.modulation.split_at(self.weight.len());
        let weight = self.weight.iter().zip(scale).map(|(w, scale)| w * (1.0 + scale));
        let bias = self
            .bias
            .iter()
            .zip(scale)
            .zip(shift)
            .map(|((b, scale), shift)| b * (1.0 + scale) + shift);
        [weight.collect(), bias.collect()]
    }

    /// The backward pass of [`Self::effective`] for one image. Adds the gradients of weight and
    /// bias to `sums` and writes those of the modulation.
    pub(crate) fn backward(
        &self,
        effective: &[[f32; 2]],
        sums: &mut [[f32; 2]],
        modulation: &mut [f32],
    ) {
        let channels = self.weight.len();
        for (c, (&[dw, db], sum)) in effective.iter().zip(sums).enumerate() {
            let factor = self.modulation.get(c).map_or(1.0, |scale| 1.0 + scale);
            sum[0] += dw * factor;
            sum[1] += db * factor;
            if !self.modulation.is_empty() {
                modulation[c] = dw * self.weight[c] + db * self.bias[c];
                modulation[channels + c] = db;
            }
        }
    }
}

/// The statistics of one image, one number for each channel, for the backward pass.
pub(crate) struct Statistics {
    mean: Scratch,
    /// 1 / √(variance + eps).
    scale: Scratch,
}

impl Norm<'_> {
    fn pitch(&self) -> usize {
        self.weight.len().next_multiple_of(LANES)
    }

    /// Replaces the numbers of each group by their sum divided by `by`.
    fn over_groups(&self, channels: &mut [f32], by: f32) {
        for group in channels[..self.weight.len()].chunks_exact_mut(self.weight.len() / self.groups)
        {
            let mean = group.iter().sum::<f32>() / by;
            group.fill(mean);
        }
    }

    /// The statistics of the image `x`.
    pub(crate) fn statistics(&self, x: &[f32]) -> Statistics {
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

    /// The normalisation as a factor and a summand for each channel; both are 0 in the padding.
    fn affine(&self, statistics: &Statistics) -> [Scratch; 2] {
        let (mut factor, mut summand) =
            (Scratch::zeroed(self.pitch()), Scratch::zeroed(self.pitch()));
        for c in 0..self.weight.len() {
            factor[c] = statistics.scale[c] * self.weight[c];
            summand[c] = self.bias[c] - statistics.mean[c] * factor[c];
        }
        [factor, summand]
    }

    /// Normalises the image `x`, without activation.
    pub(crate) fn normalise(&self, x: &[f32], y: &mut [f32]) -> Statistics {
        let statistics = self.statistics(x);
        let [factor, summand] = self.affine(&statistics);
        affine(self.isa, x, &factor, &summand, y);
        statistics
    }

    /// Normalises and activates the image `x` into `rows`, which hold the whole image, and applies
    /// the mask.
    pub(crate) fn activate<'r>(
        &self,
        mut x: &[f32],
        rows: impl IntoIterator<Item = &'r mut [f32]>,
        mut mask: Option<ImageMask<'_>>,
    ) -> Statistics {
        let statistics = self.statistics(x);
        let [factor, summand] = self.affine(&statistics);
        for y in rows {
            let row;
            (row, x) = x.split_at(y.len());
            activate(self.isa, row, &factor, &summand, y);
            if let Some(mask) = &mut mask {
                mask.apply_next(self.isa, y);
            }
        }
        statistics
    }

    /// Like [`Self::activate`], with known statistics. Also writes the slopes of the activation and
    /// of the mask for [`Self::backward`].
    pub(crate) fn activate_with_slopes<'r>(
        &self,
        mut x: &[f32],
        statistics: &Statistics,
        rows: impl IntoIterator<Item = &'r mut [f32]>,
        mut slopes: &mut [f32],
        mut mask: Option<ImageMask<'_>>,
    ) {
        let [factor, summand] = self.affine(statistics);
        for y in rows {
            let (row, row_slopes);
            (row, x) = x.split_at(y.len());
            (row_slopes, slopes) = slopes.split_at_mut(y.len());
            activate_with_slopes(self.isa, row, &factor, &summand, y, row_slopes);
            if let Some(mask) = &mut mask {
                let mut of_slopes = *mask;
                of_slopes.apply_next(self.isa, row_slopes);
                mask.apply_next(self.isa, y);
            }
        }
    }

    /// The backward pass of the image `x` up to one pass over its pixels, which the returned
    /// [`Combination`] makes. `dy` holds the gradient of the result and becomes dz. The gradients
    /// of weight and bias are added to `sums` as pairs.
    ///
    /// With x̂ = (x − μ)/σ, z = w·x̂ + b and dz = dy · silu'(z), and means over the elements of the
    /// group: dx = (w·dz − mean(w·dz) − x̂·mean(w·dz·x̂)) / σ.
    pub(crate) fn backward(
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

/// The last step of the backward pass: dx = a·dz + b·x + c, with one a, b and c for each channel.
pub(crate) struct Combination {
    isa: Isa,
    factors: [Scratch; 3],
}

impl Combination {
    /// Writes the gradients of some pixels to `dx` and adds their sums to the channels of `totals`.
    pub(crate) fn write(&self, dz: &[f32], x: &[f32], dx: &mut [f32], totals: &mut [f32]) {
        let [a, b, c] = &self.factors;
        combine(self.isa, dz, x, [a, b, c], dx, totals);
    }
}

vectorised! {
    fn squares(x: &[f32], mean: &[f32], totals: &mut [f32]) {
        over_pixels(x.len(), [totals], |i, c| {
            let d = L::load(&x[i..]).sub(L::load(&mean[c..]));
            [d.mul(d)]
        });
    }
}

vectorised! {
    fn affine(x: &[f32], factor: &[f32], summand: &[f32], y: &mut [f32]) {
        let pitch = factor.len();
        for (x, y) in x.chunks_exact(pitch).zip(y.chunks_exact_mut(pitch)) {
            for c in (0..pitch).step_by(LANES) {
                let (x, factor, summand) = (at(x, c), at(factor, c), at(summand, c));
                for l in 0..LANES {
                    y[c + l] = x[l] * factor[l] + summand[l];
                }
            }
        }
    }
}

vectorised! {
    fn activate(x: &[f32], factor: &[f32], summand: &[f32], y: &mut [f32]) {
        let pitch = factor.len();
        for (x, y) in x.chunks_exact(pitch).zip(y.chunks_exact_mut(pitch)) {
            for c in (0..pitch).step_by(LANES) {
                let z = L::load(&x[c..]).mul(L::load(&factor[c..])).add(L::load(&summand[c..]));
                z.mul(z.sigmoid::<FMA>()).store(&mut y[c..]);
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
                let z = L::load(&x[c..]).mul(L::load(&factor[c..])).add(L::load(&summand[c..]));
                let s = z.sigmoid::<FMA>();
                z.mul(s).store(&mut y[c..]);
                let (mut zs, mut ss) = ([0.0; LANES], [0.0; LANES]);
                z.store(&mut zs);
                s.store(&mut ss);
                for l in 0..LANES {
                    slopes[c + l] = silu_slope_at::<FMA>(zs[l], ss[l]);
                }
            }
        }
    }
}

vectorised! {
    /// Multiplies `dy` by `slopes`, adds its sums to `alone`, and those of its product with x −
    /// mean to `with_x`.
    fn slope_sums(
        x: &[f32], mean: &[f32], slopes: &[f32], dy: &mut [f32], alone: &mut [f32], with_x: &mut [f32],
    ) {
        over_pixels(x.len(), [alone, with_x], |i, c| {
            let dz = L::load(&dy[i..]).mul(L::load(&slopes[i..]));
            dz.store(&mut dy[i..]);
            [dz, dz.mul(L::load(&x[i..]).sub(L::load(&mean[c..])))]
        });
    }
}

vectorised! {
    fn combine(dz: &[f32], x: &[f32], factors: [&[f32]; 3], dx: &mut [f32], totals: &mut [f32]) {
        let [a, b, constant] = factors;
        over_pixels(x.len(), [totals], |i, c| {
            let by_x = L::load(&x[i..]).mul(L::load(&b[c..])).add(L::load(&constant[c..]));
            let result = L::load(&dz[i..]).mul(L::load(&a[c..])).add(by_x);
            result.store(&mut dx[i..]);
            [result]
        });
    }
}
