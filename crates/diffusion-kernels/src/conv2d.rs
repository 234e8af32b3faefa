//! Convolution as a candle operation.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::engine::{Gather, Geometry, Scatter};
use crate::fresh::Fresh;
use crate::isa::Isa;
use crate::storage::{elements, output, with_elements};
use crate::weight_gradient::WeightGradient;

/// Images whose weight gradients one task adds up. A constant: the order of additions is the same for any
/// number of threads.
pub(crate) const CHUNK: usize = 4;

/// The sizes of one call.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    images: usize,
    inputs: usize,
    outputs: usize,
    geometry: Geometry,
}

#[derive(Clone, Copy, Debug)]
struct Conv2d {
    isa: Isa,
    stride: usize,
    padding: usize,
}

/// [`crate::conv2d`] by the kernels.
pub(crate) fn conv2d(
    isa: Isa,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let op = Conv2d { isa, stride, padding };
    let sizes = op.sizes(x.shape(), weight.shape())?;
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) if bias.dims() != [sizes.outputs] => {
            bail!("conv2d: a bias of shape {:?} for {} output channels", bias.dims(), sizes.outputs)
        }
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
        None => x.apply_op2(&weight, op),
    }
}

impl Conv2d {
    fn sizes(&self, x: &Shape, weight: &Shape) -> Result<Sizes> {
        let (stride, padding) = (self.stride, self.padding);
        let (&[images, inputs, h, w], &[outputs, wanted, kernel, kernel_w]) = (x.dims(), weight.dims())
        else {
            bail!("conv2d wants x (N, Cin, H, W) and weight (Cout, Cin, K, K), got {x:?} and {weight:?}");
        };
        if inputs != wanted {
            bail!("conv2d: x {x:?} has {inputs} channels, weight {weight:?} wants {wanted}");
        }
        if kernel != kernel_w || kernel == 0 {
            bail!("conv2d wants a square kernel, got weight {weight:?}");
        }
        if stride == 0 {
            bail!("conv2d: the stride must not be 0");
        }
        if x.elem_count() == 0 || weight.elem_count() == 0 {
            bail!("conv2d: nothing to do for x {x:?} and weight {weight:?}");
        }
        if h.min(w) + 2 * padding < kernel {
            bail!("conv2d: the kernel of {weight:?} is larger than x {x:?} with padding {padding}");
        }
        let small = ((h + 2 * padding - kernel) / stride + 1, (w + 2 * padding - kernel) / stride + 1);
        Ok(Sizes {
            images,
            inputs,
            outputs,
            geometry: Geometry { kernel, stride, padding, large: (h, w), small },
        })
    }

    fn forward(&self, sizes: &Sizes, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> (CpuStorage, Shape) {
        let &Sizes { images, inputs, outputs, geometry } = sizes;
        let kernel = geometry.kernel;
        let gather = Gather::new(self.isa, geometry.window(inputs), outputs, bias, |o, c, ky, kx| {
            weight[((o * inputs + c) * kernel + ky) * kernel + kx]
        });
        let pixels = geometry.small_len();
        let mut y = Fresh::new(images * outputs * pixels);
        y.par_chunks_mut(outputs * pixels).enumerate().for_each(|(i, y)| {
            let image = inputs * geometry.large_len();
            gather.run(&x[i * image..(i + 1) * image], y, pixels);
        });
        output(y.finish(), (images, outputs, geometry.small.0, geometry.small.1))
    }

    /// Gradients of x (if wanted), weight and bias.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = self.sizes(x.shape(), weight.shape())?;
        let Sizes { images, inputs, outputs, geometry } = sizes;
        let kernel = geometry.kernel;
        let (large, small) = (inputs * geometry.large_len(), outputs * geometry.small_len());
        let (dx, dw, db) = with_elements([x, weight, dy], |[x_data, w, dy]| {
            let by_weight = WeightGradient::new(self.isa, geometry, outputs, inputs);
            let by_input = x.track_op().then(|| {
                Scatter::new(self.isa, geometry, outputs, inputs, None, |o, c, ky, kx| {
                    w[((c * inputs + o) * kernel + ky) * kernel + kx]
                })
            });
            let chunk = |i: usize| {
                (i * CHUNK..((i + 1) * CHUNK).min(images))
                    .map(|i| (&dy[i * small..(i + 1) * small], &x_data[i * large..(i + 1) * large]))
            };
            let mut dx = Fresh::new(if by_input.is_some() { images * large } else { 0 });
            let partials: Vec<_> = if let Some(by_input) = &by_input {
                dx.par_chunks_mut(CHUNK * large)
                    .enumerate()
                    .map(|(i, dx)| {
                        for ((dy, _), dx) in chunk(i).zip(dx.chunks_exact_mut(large)) {
                            by_input.run(dy, dx);
                        }
                        by_weight.sum(chunk(i))
                    })
                    .collect()
            } else {
                (0..images.div_ceil(CHUNK)).into_par_iter().map(|i| by_weight.sum(chunk(i))).collect()
            };
            let (dw, db) = by_weight.finish(&partials);
            Ok((by_input.is_some().then(|| dx.finish()), dw, db))
        })?;
        let dx = dx.map(|dx| Tensor::from_vec(dx, x.shape(), &Device::Cpu)).transpose()?;
        let dw = Tensor::from_vec(dw, weight.shape(), &Device::Cpu)?;
        let db = Tensor::from_vec(db, outputs, &Device::Cpu)?;
        Ok((dx, Some(dw), Some(db)))
    }
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        "diffusion-conv2d"
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

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "diffusion-conv2d-bias"
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
