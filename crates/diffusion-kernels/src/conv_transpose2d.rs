//! Transposed convolution as a candle operation.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::conv2d::CHUNK;
use crate::engine::{Gather, Geometry, Scatter};
use crate::fresh::Fresh;
use crate::isa::Isa;
use crate::storage::{elements, output, with_elements};
use crate::vector;
use crate::weight_gradient::WeightGradient;

/// The sizes of one call; the geometry is that of the convolution it transposes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    images: usize,
    inputs: usize,
    outputs: usize,
    geometry: Geometry,
}

#[derive(Clone, Copy, Debug)]
struct ConvTranspose2d {
    isa: Isa,
    stride: usize,
    padding: usize,
}

/// [`crate::conv_transpose2d`] by the kernels.
pub(crate) fn conv_transpose2d(
    isa: Isa,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let op = ConvTranspose2d { isa, stride, padding };
    let sizes = op.sizes(x.shape(), weight.shape())?;
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) if bias.dims() != [sizes.outputs] => {
            bail!("conv_transpose2d: a bias of shape {:?} for {} output channels", bias.dims(), sizes.outputs)
        }
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
        None => x.apply_op2(&weight, op),
    }
}

impl ConvTranspose2d {
    fn sizes(&self, x: &Shape, weight: &Shape) -> Result<Sizes> {
        let (stride, padding) = (self.stride, self.padding);
        let (&[images, inputs, h, w], &[wanted, outputs, kernel, kernel_w]) = (x.dims(), weight.dims())
        else {
            bail!(
                "conv_transpose2d wants x (N, Cin, H, W) and weight (Cin, Cout, K, K), got {x:?} and {weight:?}"
            );
        };
        if inputs != wanted {
            bail!("conv_transpose2d: x {x:?} has {inputs} channels, weight {weight:?} wants {wanted}");
        }
        if kernel != kernel_w || kernel == 0 {
            bail!("conv_transpose2d wants a square kernel, got weight {weight:?}");
        }
        if stride == 0 {
            bail!("conv_transpose2d: the stride must not be 0");
        }
        if x.elem_count() == 0 || weight.elem_count() == 0 {
            bail!("conv_transpose2d: nothing to do for x {x:?} and weight {weight:?}");
        }
        let side = |small: usize| (small.checked_sub(1)? * stride + kernel).checked_sub(2 * padding);
        let (Some(large_h @ 1..), Some(large_w @ 1..)) = (side(h), side(w)) else {
            bail!(
                "conv_transpose2d: nothing is left of x {x:?} with weight {weight:?} and padding {padding}"
            );
        };
        let geometry = Geometry { kernel, stride, padding, large: (large_h, large_w), small: (h, w) };
        Ok(Sizes { images, inputs, outputs, geometry })
    }

    fn forward(&self, sizes: &Sizes, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> (CpuStorage, Shape) {
        let &Sizes { images, inputs, outputs, geometry } = sizes;
        let kernel = geometry.kernel;
        let scatter = Scatter::new(self.isa, geometry, inputs, outputs, bias, |o, c, ky, kx| {
            weight[((c * outputs + o) * kernel + ky) * kernel + kx]
        });
        let (small, large) = (inputs * geometry.small_len(), outputs * geometry.large_len());
        let mut y = Fresh::new(images * large);
        y.par_chunks_mut(large).enumerate().for_each(|(i, y)| scatter.run(&x[i * small..(i + 1) * small], y));
        output(y.finish(), (images, outputs, geometry.large.0, geometry.large.1))
    }

    /// Gradients of x (if wanted), weight and bias.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Sizes { images, inputs, outputs, geometry } = self.sizes(x.shape(), weight.shape())?;
        let kernel = geometry.kernel;
        let (pixels, plane) = (geometry.small_len(), geometry.large_len());
        let (small, large) = (inputs * pixels, outputs * plane);
        let (dx, dw, db) = with_elements([x, weight, dy], |[x_data, w, dy]| {
            let by_weight = WeightGradient::new(self.isa, geometry, inputs, outputs);
            let by_input = x.track_op().then(|| {
                Gather::new(self.isa, geometry.window(outputs), inputs, None, |o, c, ky, kx| {
                    w[((o * outputs + c) * kernel + ky) * kernel + kx]
                })
            });
            let chunk = |i: usize| {
                (i * CHUNK..((i + 1) * CHUNK).min(images))
                    .map(|i| (&x_data[i * small..(i + 1) * small], &dy[i * large..(i + 1) * large]))
            };
            let sums = |i: usize| {
                let mut db = vec![0.0; outputs];
                for (_, dy) in chunk(i) {
                    for (db, dy) in db.iter_mut().zip(dy.chunks_exact(plane)) {
                        *db += vector::sum(self.isa, dy);
                    }
                }
                (by_weight.sum(chunk(i)), db)
            };
            let mut dx = Fresh::new(if by_input.is_some() { images * small } else { 0 });
            let (partials, bias_partials): (Vec<_>, Vec<_>) = if let Some(by_input) = &by_input {
                dx.par_chunks_mut(CHUNK * small)
                    .enumerate()
                    .map(|(i, dx)| {
                        for ((_, dy), dx) in chunk(i).zip(dx.chunks_exact_mut(small)) {
                            by_input.run(dy, dx, pixels);
                        }
                        sums(i)
                    })
                    .collect()
            } else {
                (0..images.div_ceil(CHUNK)).into_par_iter().map(sums).collect()
            };
            let (dw, _) = by_weight.finish(&partials);
            let mut db = vec![0.0; outputs];
            for partial in &bias_partials {
                for (db, x) in db.iter_mut().zip(partial) {
                    *db += x;
                }
            }
            Ok((by_input.is_some().then(|| dx.finish()), dw, db))
        })?;
        let dx = dx.map(|dx| Tensor::from_vec(dx, x.shape(), &Device::Cpu)).transpose()?;
        let dw = Tensor::from_vec(dw, weight.shape(), &Device::Cpu)?;
        let db = Tensor::from_vec(db, outputs, &Device::Cpu)?;
        Ok((dx, Some(dw), Some(db)))
    }
}

impl CustomOp2 for ConvTranspose2d {
    fn name(&self) -> &'static str {
        "diffusion-conv-transpose2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(lx.shape(), lw.shape())?;
        Ok(self.forward(&sizes, elements(x, lx)?, elements(w, lw)?, None))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, _) = self.backward(x, w, dy)?;
        Ok((dx, dw))
    }
}

impl CustomOp3 for ConvTranspose2d {
    fn name(&self) -> &'static str {
        "diffusion-conv-transpose2d-bias"
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
        let sizes = self.sizes(lx.shape(), lw.shape())?;
        Ok(self.forward(&sizes, elements(x, lx)?, elements(w, lw)?, Some(elements(b, lb)?)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.backward(x, w, dy)
    }
}
