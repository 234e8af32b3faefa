//! Convolutions for any device, with gradients from operations that are fast on GPUs.
//!
//! candle differentiates a convolution by a transposed convolution and by a convolution whose
//! kernel is the whole gradient. Neither is fast on a GPU, and both need square images. Here the
//! gradient of the input is a convolution with turned weights, and that of the weights one matrix
//! product. A transposed convolution is the convolution of its spread input.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, DType, Layout, MetalStorage, Result, Shape, Tensor,
};

use crate::Padding;

/// Defines [`crate::conv2d`], without the bias. The factors of products are rounded to `format`,
/// also in the backward pass.
pub(super) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: Padding,
    format: DType,
) -> Result<Tensor> {
    let factor = |tensor: &Tensor| tensor.detach().to_dtype(format);
    let y = forward(&factor(x)?, &factor(weight)?, stride, padding)?.to_dtype(x.dtype())?;
    y.apply_op3(x, weight, Gradients { stride, padding, format })
}

/// Defines the transposed convolution, without the bias.
pub(super) fn conv_transpose2d(
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
    format: DType,
) -> Result<Tensor> {
    let kernel = weight.dim(2)?;
    let spread = spread(x, stride)?;
    let margin = [kernel as i64 - 1 - padding as i64; 2];
    let x = with_margins(&with_margins(&spread, 2, margin)?, 3, margin)?;
    conv2d(&x, &turned(weight)?, 1, Padding { before: 0, after: 0 }, format)
}

fn forward(x: &Tensor, weight: &Tensor, stride: usize, padding: Padding) -> Result<Tensor> {
    let Padding { before, after } = padding;
    if before == after {
        return convolved(x, weight, before, stride);
    }
    let padded = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
    convolved(&padded, weight, 0, stride)
}

/// Gives the result of a convolution, its first argument, the gradients of the other two.
struct Gradients {
    stride: usize,
    padding: Padding,
    format: DType,
}

impl CustomOp3 for Gradients {
    fn name(&self) -> &'static str {
        "convolution with gradients"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        y: &CudaStorage,
        layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(
        &self,
        y: &MetalStorage,
        layout: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let factor = |tensor: &Tensor| tensor.detach().to_dtype(self.format);
        let (dtype, shape, kernel) = (x.dtype(), x.dims4()?, weight.dim(2)?);
        let (x, weight, dy) = (factor(x)?, factor(weight)?, factor(dy)?);
        let dx = self.of_input(shape, &weight, &dy)?.to_dtype(dtype)?;
        Ok((None, Some(dx), Some(self.of_weight(&x, kernel, &dy)?.to_dtype(dtype)?)))
    }
}

impl Gradients {
    /// The gradient of the input: the spread gradient of the output, convolved with turned weights.
    fn of_input(
        &self,
        (_, _, height, width): (usize, usize, usize, usize),
        weight: &Tensor,
        dy: &Tensor,
    ) -> Result<Tensor> {
        let last = weight.dim(2)? as i64 - 1;
        let before = last - self.padding.before as i64;
        let mut spread = spread(dy, self.stride)?;
        for (dim, side) in [(2, height), (3, width)] {
            let after = (side as i64 + last) - before - spread.dim(dim)? as i64;
            spread = with_margins(&spread, dim, [before, after])?;
        }
        convolved(&spread, &turned(weight)?, 0, 1)
    }

    /// The gradient of the weights: the product of the output's gradient with the inputs at each
    /// position of the kernel, over the pixels of all images.
    fn of_weight(&self, x: &Tensor, kernel: usize, dy: &Tensor) -> Result<Tensor> {
        let Padding { before, after } = self.padding;
        let (n, outputs, rows, columns) = dy.dims4()?;
        let inputs = x.dim(1)?;
        // Enough zeros for whole strides at every position.
        let extra = after + self.stride - 1;
        let x = x.transpose(0, 1)?.contiguous()?;
        let x = x.pad_with_zeros(2, before, extra)?.pad_with_zeros(3, before, extra)?;
        let mut positions = Vec::with_capacity(kernel * kernel);
        for row in 0..kernel {
            let band = every(&x, 2, row, rows, self.stride)?;
            for column in 0..kernel {
                positions.push(every(&band, 3, column, columns, self.stride)?);
            }
        }
        let by_channel = |map: &Tensor| map.reshape(((), n * rows * columns));
        let dy = by_channel(&dy.transpose(0, 1)?.contiguous()?)?;
        product(&dy, &by_channel(&Tensor::cat(&positions, 0)?)?.t()?)?
            .reshape((outputs, kernel * kernel, inputs))?
            .transpose(1, 2)?
            .reshape((outputs, inputs, kernel, kernel))
    }
}

/// The factors of a product, in a format that candle multiplies: it has no products in bf16 on the
/// CPU, where they are computed in f32.
fn factors(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let is_missing = a.dtype() == DType::BF16 && a.device().is_cpu();
    let format = if is_missing { DType::F32 } else { a.dtype() };
    Ok((a.to_dtype(format)?, b.to_dtype(format)?))
}

fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = factors(a, b)?;
    a.matmul(&b)
}

fn convolved(x: &Tensor, weight: &Tensor, padding: usize, stride: usize) -> Result<Tensor> {
    let (x, weight) = factors(x, weight)?;
    x.conv2d(&weight, padding, stride, 1, 1)
}

/// `count` entries of a dimension, from `start` on in steps of `stride`.
fn every(x: &Tensor, dim: usize, start: usize, count: usize, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return x.narrow(dim, start, count);
    }
    let mut shape = x.dims().to_vec();
    shape[dim] = count;
    shape.insert(dim + 1, stride);
    x.narrow(dim, start, count * stride)?
        .contiguous()?
        .reshape(shape)?
        .narrow(dim + 1, 0, 1)?
        .squeeze(dim + 1)
}

/// The map with `stride` − 1 zeros between neighbours.
fn spread(x: &Tensor, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(x.clone());
    }
    let (n, channels, height, width) = x.dims4()?;
    x.reshape((n, channels, height, 1, width, 1))?
        .pad_with_zeros(3, 0, stride - 1)?
        .pad_with_zeros(5, 0, stride - 1)?
        .reshape((n, channels, height * stride, width * stride))?
        .narrow(2, 0, (height - 1) * stride + 1)?
        .narrow(3, 0, (width - 1) * stride + 1)
}

/// The weights (Cout, Cin, K, K) as (Cin, Cout, K, K), with both sides of the kernel reversed.
fn turned(weight: &Tensor) -> Result<Tensor> {
    weight.transpose(0, 1)?.contiguous()?.flip(&[2, 3])?.contiguous()
}

/// The map with zeros before and after one dimension. A negative number removes entries.
fn with_margins(x: &Tensor, dim: usize, [before, after]: [i64; 2]) -> Result<Tensor> {
    let length = x.dim(dim)? as i64 + before.min(0) + after.min(0);
    let kept = x.narrow(dim, (-before).max(0) as usize, length.max(0) as usize)?;
    kept.pad_with_zeros(dim, before.max(0) as usize, after.max(0) as usize)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// The result and the gradients of a convolution with factors in bf16 are near those in f32,
    /// and are not the same.
    #[test]
    fn factors_in_bf16_change_results_by_their_rounding() -> Result<()> {
        let device = &Device::Cpu;
        let x = Var::randn(0f32, 1.0, (2, 3, 6, 6), device)?;
        let padding = Padding { before: 1, after: 1 };
        for stride in [1, 2] {
            let weight = Var::randn(0f32, 1.0, (4, 3, 3, 3), device)?;
            let results = |format: DType| -> Result<[Tensor; 3]> {
                let y = conv2d(&x, &weight, stride, padding, format)?;
                let store = y.sqr()?.sum_all()?.backward()?;
                let gradient = |var: &Var| store.get(var).expect("a gradient").clone();
                Ok([y, gradient(&x), gradient(&weight)])
            };
            for (rounded, exact) in results(DType::BF16)?.iter().zip(results(DType::F32)?) {
                assert_eq!(rounded.dtype(), DType::F32);
                let size = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
                let error = size(&(rounded - &exact)?)? / size(&exact)?;
                assert!((1e-4..2e-2).contains(&error), "stride {stride}: {error}");
            }
        }
        Ok(())
    }
}
