//! The layers of diffusion U-Nets as fast CPU kernels for candle, with gradients.
//!
//! - [`FeatureMap`]: a batch of images between two layers. Its methods are the layers:
//!   convolutions, group normalisation, attention, resampling, and a whole residual block as one
//!   operation.
//! - [`conv2d`], [`group_norm`], [`residual_block`], [`linear`] and [`silu`]: single operations on
//!   candle tensors.
//! - [`adamw`], [`muon`], [`add_gradients`] and [`square_sum`]: optimiser updates in place, and
//!   sums and norms of gradients.
//! - [`backward`]: the gradients of a loss, faster than candle's own function.
//! - [`in_pool`]: runs a network or a training step on a thread of the kernels' pool.
//!   [`in_parallel`]: runs several at the same time. [`in_parts`]: runs a network, on a part of the
//!   images in each thread if it needs no gradients.
//! - [`autocast`]: runs a network with products in bf16, on CPUs with AVX512-BF16 and on GPUs.
//! - [`checkpoint_activations`]: runs a network that keeps less for its backward pass.
//! - [`traced`] and [`peak_bytes`]: the operations of a forward pass, and the memory in use.
//!
//! The kernels compute `f32` on the CPU with AVX-512, AVX2 or portable code, whichever the CPU has.
//! Other types and devices use the same operations composed from candle's own. These are also the
//! definitions that the kernels are tested against. The environment variable `DIFFUSION_KERNELS`
//! forces `avx2`, `portable` or `slow` (candle's own operations). Default: `best`.
//!
//! The result for an image has the same bits in every batch. Results and gradients have the same
//! bits for any number of threads.
//!
//! This crate owns no parameters, defines no network and draws no random numbers.
//!
//! ```
//! use candle_core::{DType, Device, Result, Tensor, Var};
//! use diffusion_kernels::{Activation, GroupNorm, conv2d, group_norm};
//!
//! # fn main() -> Result<()> {
//! let x = Tensor::ones((2, 8, 7, 5), DType::F32, &Device::Cpu)?;
//! let scale = Var::ones(8, DType::F32, &Device::Cpu)?;
//! let shift = Var::zeros(8, DType::F32, &Device::Cpu)?;
//! let weight = Var::ones((4, 8, 3, 3), DType::F32, &Device::Cpu)?;
//! let norm = GroupNorm {
//!     groups: 4,
//!     eps: 1e-5,
//!     weight: &scale,
//!     bias: &shift,
//!     modulation: None,
//!     activation: Activation::Silu,
//! };
//! // SiLU of the normalised images, then a 3 × 3 convolution with stride 1 and padding 1.
//! let h = group_norm(&x, &norm)?;
//! let y = conv2d(&h, &weight, None, 1, 1)?;
//! assert_eq!(y.dims(), [2, 4, 7, 5]);
//! let gradients = y.sum_all()?.backward()?;
//! assert!(gradients.get(&weight).is_some() && gradients.get(&scale).is_some());
//! # Ok(())
//! # }
//! ```

// The vector code must be inlined into functions with other target features. It is clearest with
// numbered lanes and registers. Pixels outside the image have negative coordinates.
#![allow(clippy::inline_always, clippy::needless_range_loop, clippy::cast_possible_wrap)]

mod arguments;
mod arith;
mod graph;
mod image;
mod memory;
mod optim;
pub mod slow;

#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};

pub use arguments::{Activation, GroupNorm, Padding, ResidualBlock, TimeConditioning};
pub use graph::feature_map::FeatureMap;
pub use graph::parallel::{in_parallel, in_parts, in_pool};
pub use graph::pass::backward;
pub use graph::scope::{Precision, autocast, checkpoint_activations};
pub use graph::trace::{Operation, peak_bytes, traced};
pub use image::mask::DropoutMask;
pub use optim::ParameterState;
pub use optim::adamw::AdamW;
pub use optim::muon::{Muon, Update};

use memory::storage::kernels_for;

/// 2-D convolution (cross-correlation) with a square kernel, from `x` (N, Cin, H, W) to
/// (N, Cout, H', W').
///
/// `weight` has the shape (Cout, Cin, K, K) and `bias` (Cout). `stride` must be at least 1.
///
/// # Errors
/// If the shapes do not match, a shape is empty, `stride` is 0, the padding exceeds 65536, or the
/// kernel is larger than the padded images.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: impl Into<Padding>,
) -> Result<Tensor> {
    FeatureMap::from_images(x)?.conv2d(weight, bias, stride, padding)?.to_images()
}

/// Group normalisation of `x` (N, C, …), with an optional modulation and activation.
///
/// # Errors
/// If C is not divisible by the number of groups, or the shapes do not match.
pub fn group_norm(x: &Tensor, norm: &GroupNorm<'_>) -> Result<Tensor> {
    let &[n, c, ..] = x.dims() else {
        bail!("group_norm: expected (N, C, …), got {:?}", x.shape())
    };
    FeatureMap::from_images(&x.reshape((n, c, 1, ()))?)?
        .group_norm(norm)?
        .to_images()?
        .reshape(x.shape())
}

/// A linear layer, `x · weightᵀ + bias`, from `x` (N, Din) to (N, Dout).
///
/// `weight` has the shape (Dout, Din) and `bias` (Dout). With the kernels, row i of the result has
/// the same bits for any N and any other rows.
///
/// # Errors
/// If the shapes do not match or are empty.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let rows = || match kernels_for(&[x, weight, bias]) {
        Some(isa) => graph::linear::linear(isa, x, weight, bias),
        None => slow::linear(x, weight, bias),
    };
    graph::trace::linear(rows, x, weight)
}

/// SiLU: `x · sigmoid(x)`, elementwise.
///
/// # Errors
/// An error of the device.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    match kernels_for(&[x]) {
        Some(isa) => graph::silu::silu(isa, x),
        None => slow::silu(x),
    }
}

/// A residual block with a time embedding (Ho et al. 2020, appendix B), from `x` (N, Cin, H, W) to
/// (N, Cout, H, W):
///
/// `skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + embedding)))`
///
/// This is [`TimeConditioning::Add`] with `embedding` (N, Cout). With
/// [`TimeConditioning::ScaleShift`], `embedding` (N, 2·Cout) modulates the output of `norm2`
/// instead.
///
/// # Errors
/// If the shapes do not match or are empty, the kernel size is even, a channel count is not
/// divisible by the number of groups, or Cin differs from Cout without a skip convolution.
pub fn residual_block(x: &Tensor, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Tensor> {
    FeatureMap::from_images(x)?.residual_block(embedding, block)?.to_images()
}

/// The sum of the squares of all elements. The kernels add partial sums of 16384 elements in `f64`.
///
/// # Errors
/// An error of the device.
pub fn square_sum(x: &Tensor) -> Result<f64> {
    match kernels_for(&[x]) {
        Some(isa) => optim::square_sum(isa, x),
        None => slow::square_sum(x),
    }
}

/// The sum of two gradients of the same shape. The kernels add `other` to the memory of `sum`,
/// which other tensors must not use.
///
/// # Errors
/// If the shapes differ, or both share memory; an error of the device.
pub fn add_gradients(sum: Tensor, other: &Tensor) -> Result<Tensor> {
    match kernels_for(&[&sum, other]).filter(|_| sum.is_contiguous()) {
        Some(isa) if sum.dims() == other.dims() => optim::add(isa, &sum, other).map(|()| sum),
        _ => sum + other,
    }
}

/// Updates a parameter in place by one step of AdamW (Loshchilov & Hutter 2019, algorithm 2), in
/// PyTorch's order of operations, and then the moving average (EMA) of its weights:
///
/// ```text
/// m ← β₁·m + (1 − β₁)·g          v ← β₂·v + (1 − β₂)·g²
/// w ← (1 − lr·decay)·w − lr/(1 − β₁ᵏ) · m / (√v/√(1 − β₂ᵏ) + eps)
/// average ← average − share·(average − w)
/// ```
///
/// `k` is the number of the update and `g` the gradient times `gradient_scale`.
///
/// # Errors
/// If the shapes differ, two of the tensors share memory, or `step` is 0.
pub fn adamw(gradient: &Tensor, parameter: &ParameterState<'_>, constants: &AdamW) -> Result<()> {
    parameter.check(gradient, constants)?;
    let ParameterState { weight, first, second, average } = parameter;
    let state: [&Tensor; 4] =
        [weight, first, second, average.map_or(*weight, |(average, _)| average)];
    match kernels_for(&state).filter(|_| state.iter().all(|t| t.is_contiguous())) {
        Some(isa) if kernels_for(&[gradient]).is_some() => {
            optim::adamw::adamw(isa, gradient, parameter, constants)
        }
        _ => slow::adamw(gradient, parameter, constants),
    }
}

/// Updates a moving average in place: `average ← average − share·(average − weight)`.
///
/// # Errors
/// If the shapes differ, or both share memory.
pub fn mix(average: &candle_core::Var, weight: &Tensor, share: f64) -> Result<()> {
    let tensor: &Tensor = average;
    let is_plain = tensor.is_contiguous() && weight.is_contiguous();
    match kernels_for(&[tensor, weight]).filter(|_| is_plain && tensor.dims() == weight.dims()) {
        Some(isa) => optim::adamw::mix_average(isa, tensor, weight, share as f32),
        None => slow::mix(average, weight, share),
    }
}

/// Updates matrices in place by one step of Muon (Jordan et al. 2024), and then the moving averages
/// (EMA) of their weights:
///
/// ```text
/// m ← momentum·m + g          d ← orthogonalised(g + momentum·m)
/// w ← (1 − lr·decay)·w − lr·update_rms·√max(rows, columns) · d
/// average ← average − share·(average − w)
/// ```
///
/// `orthogonalised` brings all singular values near 1. The rows of a parameter are its first
/// dimension; the other dimensions are flattened into columns. `g` is the gradient times
/// `gradient_scale`. The momentum `m` is `first`; `second` is not used.
///
/// # Errors
/// If a parameter has fewer than two dimensions, a gradient, momentum or average has another shape
/// than its parameter, or two of the tensors share memory.
pub fn muon(updates: &[Update<'_>], constants: &Muon) -> Result<()> {
    let mut all = Vec::new();
    for (gradient, ParameterState { weight, first, average, .. }) in updates {
        let average = average.map_or(*weight, |(average, _)| average);
        let tensors: [&Tensor; 4] = [weight, first, average, gradient];
        if tensors.iter().any(|t| t.dims() != weight.dims()) {
            bail!(
                "muon: gradient, momentum and average must have the shape {:?} of the weight",
                weight.dims()
            );
        }
        all.extend(tensors);
    }
    match kernels_for(&all).filter(|_| all.iter().all(|t| t.is_contiguous())) {
        Some(isa) => optim::muon::muon(isa, updates, constants),
        None => slow::muon(updates, constants),
    }
}
