//! The definitions: each operation in candle's own terms, on any device and in any float type.

use candle_core::{DType, Result, Tensor, Var, bail};

use crate::optimize::{AdamW, Trained};
use crate::{Activation, ResidualBlock, channels};

fn add_channel_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
        None => Ok(y),
    }
}

/// See [`crate::conv2d`].
///
/// # Errors
/// As there.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    add_channel_bias(x.conv2d(weight, padding, stride, 1, 1)?, bias)
}

/// See [`crate::conv_transpose2d`].
///
/// # Errors
/// As there.
pub fn conv_transpose2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    add_channel_bias(x.conv_transpose2d(weight, padding, 0, stride, 1)?, bias)
}

/// See [`crate::group_norm`].
///
/// # Errors
/// As there.
pub fn group_norm(
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let dims = x.dims();
    let [n, channels, ..] = *dims else { bail!("group_norm wants (N, C, …), got {dims:?}") };
    if groups == 0 || channels % groups != 0 {
        bail!("group_norm: {channels} channels do not divide into {groups} groups");
    }
    let grouped = x.reshape((n, groups, ()))?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(2)?)?;
    let variance = centred.sqr()?.mean_keepdim(2)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape(dims)?;
    let mut per_channel = vec![1; dims.len()];
    per_channel[1] = channels;
    let y = normed
        .broadcast_mul(&weight.reshape(per_channel.as_slice())?)?
        .broadcast_add(&bias.reshape(per_channel.as_slice())?)?;
    match activation {
        Activation::Identity => Ok(y),
        Activation::Silu => y.silu(),
    }
}

/// See [`crate::linear`].
///
/// # Errors
/// As there.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)?.broadcast_add(bias)
}

/// See [`crate::silu`].
///
/// # Errors
/// As there.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// See [`crate::add_channel_embedding`].
///
/// # Errors
/// As there.
pub fn add_channel_embedding(x: &Tensor, embedding: &Tensor) -> Result<Tensor> {
    channels::check_embedding(x, embedding)?;
    let mut shape = x.dims().to_vec();
    shape[2..].fill(1);
    x.broadcast_add(&embedding.reshape(shape)?)
}

/// See [`crate::residual_block`].
///
/// # Errors
/// As there.
pub fn residual_block(x: &Tensor, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Tensor> {
    let padding = block.conv1.0.dim(2)? / 2;
    let part = |x: &Tensor, norm: (&Tensor, &Tensor), conv: (&Tensor, &Tensor)| {
        let normed = group_norm(x, block.groups, norm.0, norm.1, block.eps, Activation::Silu)?;
        conv2d(&normed, conv.0, Some(conv.1), 1, padding)
    };
    let hidden = add_channel_embedding(&part(x, block.norm1, block.conv1)?, embedding)?;
    let y = part(&hidden, block.norm2, block.conv2)?;
    match block.skip {
        Some((weight, bias)) => y + conv2d(x, weight, Some(bias), 1, 0)?,
        None => y + x,
    }
}

/// See [`crate::square_sum`].
///
/// # Errors
/// As there.
pub fn square_sum(x: &Tensor) -> Result<f64> {
    x.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar()
}

/// See [`crate::adamw`].
///
/// # Errors
/// As there.
pub fn adamw(gradient: &Tensor, trained: &Trained<'_>, adamw: &AdamW) -> Result<()> {
    trained.check(gradient)?;
    let Trained { weight, first, second, average } = *trained;
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

/// Moves `average` towards `weight` by the given share of the way: a moving average.
///
/// # Errors
/// Different shapes.
pub fn mix(average: &Var, weight: &Tensor, share: f64) -> Result<()> {
    let difference = (average.as_tensor() - weight)?;
    average.set(&(average.as_tensor() - difference.affine(share, 0.0)?)?.detach())
}
