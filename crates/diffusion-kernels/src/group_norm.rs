//! Group normalisation, with the activation that follows it, as a candle operation.

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::Activation;
use crate::fresh::Fresh;
use crate::isa::{Isa, vectorised};
use crate::storage::{elements, output, with_elements};
use crate::vector::{map_sum, map_sum2, sigmoid, silu_slope};

#[derive(Clone, Copy, Debug)]
struct GroupNorm {
    isa: Isa,
    groups: usize,
    eps: f32,
    activation: Activation,
}

/// A group normalisation with its parameters, for one image at a time.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub isa: Isa,
    pub groups: usize,
    pub eps: f32,
    pub silu: bool,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
}

impl Norm<'_> {
    /// The channels of a group.
    fn size(&self) -> usize {
        self.weight.len() / self.groups
    }

    fn forward_group(&self, g: usize, x: &[f32], y: &mut [f32]) {
        let channels = g * self.size()..(g + 1) * self.size();
        forward(self.isa, x, &self.weight[channels.clone()], &self.bias[channels], self.eps, self.silu, y);
    }

    fn backward_group(&self, g: usize, x: &[f32], dy: &[f32], dx: &mut [f32], sums: &mut [[f32; 2]]) {
        let channels = g * self.size()..(g + 1) * self.size();
        let (weight, bias) = (&self.weight[channels.clone()], &self.bias[channels]);
        let group = Backward { x, dy, weight, bias, eps: self.eps, silu: self.silu };
        backward(self.isa, &group, dx, sums);
    }
}

/// [`crate::group_norm`] by the kernels.
pub(crate) fn group_norm(
    isa: Isa,
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let op = GroupNorm { isa, groups, eps: eps as f32, activation };
    let [_, channels, _] = op.sizes(x.shape())?;
    if weight.dims() != [channels] || bias.dims() != [channels] {
        bail!("group_norm: weight {:?} and bias {:?} for {channels} channels", weight.dims(), bias.dims());
    }
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

/// Mean and 1 / √(variance + eps) of one group.
#[inline(always)]
fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = map_sum(x, |x| x) / n;
    let variance = map_sum(x, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

vectorised! {
    /// One group: `x` and `y` hold its channels one after the other.
    fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, silu: bool, y: &mut [f32]) {
        let (mean, scale) = statistics(x, eps);
        let plane = x.len() / weight.len();
        let channels = x.chunks_exact(plane).zip(y.chunks_exact_mut(plane));
        for ((x, y), (w, b)) in channels.zip(weight.iter().zip(bias)) {
            let (a, b) = (scale * w, b - mean * scale * w);
            if silu {
                for (y, &x) in y.iter_mut().zip(x) {
                    let z = x * a + b;
                    *y = z * sigmoid::<FMA>(z);
                }
            } else {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x * a + b;
                }
            }
        }
    }
}

/// One group of the backward pass.
struct Backward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    silu: bool,
}

vectorised! {
    /// Writes the gradient of one group's `x`, and of its channels' weights and biases as (Σ dz·x̂, Σ dz).
    ///
    /// With x̂ = (x − μ)/σ, z = w·x̂ + b and dz = dy · silu'(z), averages over the group's elements:
    /// dx = (w·dz − mean(w·dz) − x̂·mean(w·dz·x̂)) / σ.
    fn backward(group: &Backward<'_>, dx: &mut [f32], sums: &mut [[f32; 2]]) {
        let &Backward { x, dy, weight, bias, eps, silu } = group;
        let (mean, scale) = statistics(x, eps);
        let plane = x.len() / weight.len();
        let (mut s1, mut s2) = (0.0, 0.0);
        for (c, (dx, sums)) in dx.chunks_exact_mut(plane).zip(sums.iter_mut()).enumerate() {
            let (x, dy) = (&x[c * plane..(c + 1) * plane], &dy[c * plane..(c + 1) * plane]);
            let (a, b) = (scale * weight[c], bias[c] - mean * scale * weight[c]);
            if silu {
                for ((dz, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dz = dy * silu_slope::<FMA>(x * a + b);
                }
            } else {
                dx.copy_from_slice(dy);
            }
            let with_x = map_sum2(dx, x, |dz, x| dz * (x - mean)) * scale;
            let alone = map_sum(dx, |dz| dz);
            *sums = [with_x, alone];
            s1 += weight[c] * alone;
            s2 += weight[c] * with_x;
        }
        let n = x.len() as f32;
        let (s1, s2) = (s1 / n, s2 / n);
        for ((dx, x), w) in dx.chunks_exact_mut(plane).zip(x.chunks_exact(plane)).zip(weight) {
            // dx = scale·w·dz − scale·s1 − scale²·s2·(x − mean)
            let (a, b) = (scale * w, -scale * scale * s2);
            let c = -scale * s1 - b * mean;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = *dx * a + (x * b + c);
            }
        }
    }
}

impl GroupNorm {
    /// Images, channels and elements of a channel.
    fn sizes(&self, x: &Shape) -> Result<[usize; 3]> {
        let &[images, channels, ref rest @ ..] = x.dims() else {
            bail!("group_norm wants (N, C, …), got {x:?}")
        };
        if self.groups == 0 || channels % self.groups != 0 {
            bail!("group_norm: {channels} channels do not divide into {} groups", self.groups);
        }
        if x.elem_count() == 0 {
            bail!("group_norm: nothing to do for {x:?}");
        }
        Ok([images, channels, rest.iter().product()])
    }

    fn with<'a>(&self, weight: &'a [f32], bias: &'a [f32]) -> Norm<'a> {
        let &Self { isa, groups, eps, activation } = self;
        Norm { isa, groups, eps, silu: activation == Activation::Silu, weight, bias }
    }
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "diffusion-group-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [_, channels, plane] = self.sizes(lx.shape())?;
        let (x, weight, bias) = (elements(x, lx)?, elements(w, lw)?, elements(b, lb)?);
        let size = channels / self.groups;
        let norm = self.with(weight, bias);
        let mut y = Fresh::new(x.len());
        y.par_chunks_mut(size * plane)
            .zip(x.par_chunks_exact(size * plane))
            .enumerate()
            .for_each(|(i, (y, x))| norm.forward_group(i % self.groups, x, y));
        Ok(output(y.finish(), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [images, channels, plane] = self.sizes(x.shape())?;
        let size = channels / self.groups;
        let (dx, dw, db) = with_elements([x, weight, bias, dy], |[x, weight, bias, dy]| {
            let norm = self.with(weight, bias);
            let mut dx = Fresh::new(x.len());
            let mut sums = vec![[0.0; 2]; images * channels];
            dx.par_chunks_mut(size * plane)
                .zip(sums.par_chunks_exact_mut(size))
                .zip(x.par_chunks_exact(size * plane).zip(dy.par_chunks_exact(size * plane)))
                .enumerate()
                .for_each(|(i, ((dx, sums), (x, dy)))| {
                    norm.backward_group(i % self.groups, x, dy, dx, sums);
                });
            let (mut dw, mut db) = (vec![0.0; channels], vec![0.0; channels]);
            for image in sums.chunks_exact(channels) {
                for ((dw, db), sums) in dw.iter_mut().zip(&mut db).zip(image) {
                    *dw += sums[0];
                    *db += sums[1];
                }
            }
            Ok((dx.finish(), dw, db))
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), &Device::Cpu)?;
        let dw = Tensor::from_vec(dw, channels, &Device::Cpu)?;
        Ok((Some(dx), Some(dw), Some(Tensor::from_vec(db, channels, &Device::Cpu)?)))
    }
}
