//! The operations composed from candle's own, for any device and float type.
//!
//! They define what the kernels compute, serve as the tests' reference, and are the fallback where
//! there is no kernel.

mod convolution;

use candle_core::{DType, Result, Tensor, Var, bail};

use crate::graph::resample::Resample;
use crate::graph::scope::current_scope;
use crate::graph::{attention as kernel, dropout, elementwise, group_norm as norm, resample};
use crate::optim::ParameterState;
use crate::optim::adamw::AdamW;
use crate::optim::muon::{ITERATIONS, Muon, POLYNOMIAL, TINY, Update, matrix_of};
use crate::{Activation, DropoutMask, GroupNorm, Padding, Precision};

/// The format of factors: that of `x`, or bf16 where [`crate::autocast`] chose it for a GPU.
fn format(x: &Tensor) -> DType {
    match current_scope().precision {
        Precision::Bf16 if x.dtype() == DType::F32 && !x.device().is_cpu() => DType::BF16,
        _ => x.dtype(),
    }
}

fn add_channel_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
        None => Ok(y),
    }
}

/// Defines [`crate::conv2d`].
pub(crate) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: impl Into<Padding>,
) -> Result<Tensor> {
    let pointwise = match *weight.dims() {
        [outputs, inputs] => Some(weight.reshape((outputs, inputs, 1, 1))?),
        _ => None,
    };
    let weight = pointwise.as_ref().unwrap_or(weight);
    add_channel_bias(convolution::conv2d(x, weight, stride, padding.into(), format(x))?, bias)
}

/// Defines [`crate::FeatureMap::conv_transpose2d`].
pub(crate) fn conv_transpose2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    add_channel_bias(convolution::conv_transpose2d(x, weight, stride, padding, format(x))?, bias)
}

/// Defines [`crate::group_norm`].
pub(crate) fn group_norm(x: &Tensor, definition: &GroupNorm<'_>) -> Result<Tensor> {
    let &GroupNorm { groups, eps, weight, bias, modulation, activation } = definition;
    let dims = x.dims();
    let [n, channels, ..] = *dims else { bail!("group_norm: expected (N, C, …), got {dims:?}") };
    norm::check([n, channels], definition)?;
    let grouped = x.reshape((n, groups, ()))?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(2)?)?;
    let variance = centred.sqr()?.mean_keepdim(2)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape(dims)?;
    let mut per_channel = vec![1; dims.len()];
    per_channel[1] = channels;
    let mut y = normed
        .broadcast_mul(&weight.reshape(per_channel.as_slice())?)?
        .broadcast_add(&bias.reshape(per_channel.as_slice())?)?;
    if let Some(modulation) = modulation {
        per_channel[0] = n;
        let part = |first| modulation.narrow(1, first, channels)?.reshape(per_channel.as_slice());
        y = y.broadcast_mul(&(part(0)? + 1.0)?)?.broadcast_add(&part(channels)?)?;
    }
    match activation {
        Activation::Identity => Ok(y),
        Activation::Silu => y.silu(),
    }
}

/// Defines [`crate::FeatureMap::attention`]; all tensors are (N, C, H, W).
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (n, channels, h, w) = q.dims4()?;
    let dims = |x: &Tensor| x.dims4().map(|(n, c, h, w)| [n, h, w, c]);
    kernel::check([dims(q)?, dims(k)?, dims(v)?], heads)?;
    let width = channels / heads;
    let (dtype, format) = (q.dtype(), format(q));
    let product =
        |a: &Tensor, b: &Tensor| a.to_dtype(format)?.matmul(&b.to_dtype(format)?)?.to_dtype(dtype);
    // (N·heads, H·W, C / heads)
    let split = |x: &Tensor| x.reshape((n * heads, width, h * w))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let scores = (product(&q, &k.t()?)? / (width as f64).sqrt())?;
    let exponents = scores.broadcast_sub(&scores.detach().max_keepdim(2)?)?.exp()?;
    let weights = exponents.broadcast_div(&exponents.sum_keepdim(2)?)?;
    product(&weights, &v)?.transpose(1, 2)?.reshape((n, channels, h, w))
}

/// Defines [`crate::FeatureMap::upsample_nearest2`].
pub(crate) fn upsample_nearest2(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    x.upsample_nearest2d(2 * h, 2 * w)
}

/// Defines [`crate::FeatureMap::avg_pool2`].
pub(crate) fn avg_pool2(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    resample::check(Resample::Average, [h, w])?;
    x.avg_pool2d(2)
}

/// Defines [`crate::linear`].
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)?.broadcast_add(bias)
}

/// Defines [`crate::silu`].
pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// Defines [`crate::FeatureMap::add_channel_embedding`]; `x` is (N, C, H, W).
pub(crate) fn add_channel_embedding(x: &Tensor, embedding: &Tensor) -> Result<Tensor> {
    let (n, channels, _, _) = x.dims4()?;
    elementwise::check_embedding([n, channels], embedding)?;
    x.broadcast_add(&embedding.reshape((n, channels, 1, 1))?)
}

/// Defines [`crate::FeatureMap::dropout`]; `x` is (N, C, H, W).
pub(crate) fn dropout(x: &Tensor, mask: &DropoutMask) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    dropout::check([n, c, h, w], mask)?;
    let factors = Tensor::from_vec(mask.factors(), x.shape(), x.device())?;
    x * factors.to_dtype(x.dtype())?
}

/// Defines [`crate::square_sum`].
pub(crate) fn square_sum(x: &Tensor) -> Result<f64> {
    x.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar()
}

/// Defines [`crate::adamw`].
pub(crate) fn adamw(
    gradient: &Tensor,
    parameter: &ParameterState<'_>,
    adamw: &AdamW,
) -> Result<()> {
    parameter.check(gradient, adamw)?;
    let ParameterState { weight, first, second, average } = *parameter;
    let &AdamW { lr, beta1, beta2, eps, weight_decay, gradient_scale, .. } = adamw;
    let [correction1, correction2] = adamw.corrections();
    let g = gradient.detach().affine(gradient_scale, 0.0)?;
    first.set(&(first.affine(beta1, 0.0)? + g.affine(1.0 - beta1, 0.0)?)?.detach())?;
    second.set(&(second.affine(beta2, 0.0)? + g.sqr()?.affine(1.0 - beta2, 0.0)?)?.detach())?;
    let denominator = second.sqrt()?.affine(1.0 / correction2.sqrt(), eps)?;
    let update = first.div(&denominator)?.affine(lr / correction1, 0.0)?;
    weight.set(&(weight.affine(1.0 - lr * weight_decay, 0.0)? - update)?.detach())?;
    average.map_or(Ok(()), |(average, share)| mix(average, weight, share))
}

/// Updates a moving average in place: `average ← average − share·(average − weight)`.
///
/// # Errors
/// If the shapes differ.
pub fn mix(average: &Var, weight: &Tensor, share: f64) -> Result<()> {
    let difference = (average.as_tensor() - weight)?;
    average.set(&(average.as_tensor() - difference.affine(share, 0.0)?)?.detach())
}

/// Defines [`crate::muon`].
pub(crate) fn muon(updates: &[Update<'_>], muon: &Muon) -> Result<()> {
    for (gradient, ParameterState { weight, first, average, .. }) in updates {
        let (rows, columns) = matrix_of(weight)?;
        let g = gradient.detach().affine(muon.gradient_scale, 0.0)?;
        first.set(&(first.affine(muon.momentum, 0.0)? + &g)?.detach())?;
        let direction = (g + first.affine(muon.momentum, 0.0)?)?.reshape((rows, columns))?;
        let step = orthogonalised(&direction)?.reshape(weight.shape())?;
        let step = step.affine(muon.lr * muon.update_scale(rows, columns), 0.0)?;
        weight.set(&(weight.affine(1.0 - muon.lr * muon.weight_decay, 0.0)? - step)?.detach())?;
        if let Some((average, share)) = average {
            mix(average, weight, *share)?;
        }
    }
    Ok(())
}

/// The matrix (rows, columns) with its singular values brought near 1.
fn orthogonalised(matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let [a, b, c] = [POLYNOMIAL.0, POLYNOMIAL.1, POLYNOMIAL.2].map(f64::from);
    let norm = matrix.sqr()?.sum_all()?.sqrt()?.affine(1.0, f64::from(TINY))?;
    let matrix = matrix.broadcast_div(&norm)?;
    let mut x = if rows > columns { matrix.t()?.contiguous()? } else { matrix };
    for _ in 0..ITERATIONS {
        let square = x.matmul(&x.t()?)?;
        let polynomial = (square.affine(b, 0.0)? + square.matmul(&square)?.affine(c, 0.0)?)?;
        x = (x.affine(a, 0.0)? + polynomial.matmul(&x)?)?;
    }
    if rows > columns { x.t()?.contiguous() } else { Ok(x) }
}
