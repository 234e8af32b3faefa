//! The U-Net's arithmetic, one function an operation, each differentiable.
//!
//! Every operation has a plain twin in [`slow`], written with candle's own operations, which serves as its
//! definition, as the oracle of its tests and as the path on devices and types that have no kernel here.
//!
//! For `f32` on the CPU there are kernels: convolution over one register-tiled inner loop with channels last, Winograd's
//! F(4 × 4, 3 × 3) for 3 × 3 convolutions with stride 1, fused normalisation, and a whole residual block as one
//! operation. They use AVX-512 or AVX2 where the machine has them. An image's result does not depend, by a single
//! bit, on the batch it is in; results and gradients do not depend on the number of threads. Other types and
//! devices take the plain twins. The environment variable `DIFFUSION_KERNELS` forces `avx2`, `portable` or `slow`.
//!
//! This crate does not own parameters, does not know what a U-Net is, and draws no random numbers.
//!
//! ```
//! use candle_core::{DType, Device, Result, Tensor, Var};
//! use diffusion_kernels::{Activation, GroupNorm, conv2d, group_norm};
//!
//! # fn main() -> Result<()> {
//! let x = Tensor::ones((2, 8, 7, 5), DType::F32, &Device::Cpu)?;
//! let (scale, shift) = (Var::ones(8, DType::F32, &Device::Cpu)?, Var::zeros(8, DType::F32, &Device::Cpu)?);
//! let weight = Var::ones((4, 8, 3, 3), DType::F32, &Device::Cpu)?;
//! let activation = Activation::Silu;
//! let norm = GroupNorm { groups: 4, eps: 1e-5, weight: &scale, bias: &shift, modulation: None, activation };
//! let h = group_norm(&x, &norm)?;
//! let y = conv2d(&h, &weight, None, 1, 1)?;
//! assert_eq!(y.dims(), [2, 4, 7, 5]);
//! let gradients = y.sum_all()?.backward()?;
//! assert!(gradients.get(&weight).is_some() && gradients.get(&scale).is_some());
//! # Ok(())
//! # }
//! ```

// The vector code depends on inlining into functions with other target features, is clearest when lanes and
// registers are numbered, and counts pixels outside the image with signed numbers.
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
pub use graph::tasks::in_pool;
pub use graph::trace::{Operation, peak_bytes, traced};
pub use optim::Trained;
pub use optim::adamw::AdamW;
pub use optim::muon::{Muon, Update};

use memory::storage::kernels_for;

/// 2-D cross-correlation: `x` (N, Cin, H, W), `weight` (Cout, Cin, K, K), `bias` (Cout) to (N, Cout, H', W').
///
/// # Errors
/// Shapes that do not fit together.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: impl Into<Padding>,
) -> Result<Tensor> {
    FeatureMap::from_images(x)?.conv2d(weight, bias, stride, padding)?.to_images()
}

/// Group normalisation of `x` (N, C, …).
///
/// # Errors
/// A channel count that the groups do not divide; shapes that do not fit together.
pub fn group_norm(x: &Tensor, norm: &GroupNorm<'_>) -> Result<Tensor> {
    let &[n, c, ..] = x.dims() else { bail!("group_norm wants (N, C, …), got {:?}", x.shape()) };
    FeatureMap::from_images(&x.reshape((n, c, 1, ()))?)?
        .group_norm(norm)?
        .to_images()?
        .reshape(x.shape())
}

/// `x · weightᵀ + bias`: `x` (N, Din), `weight` (Dout, Din), `bias` (Dout) to (N, Dout).
///
/// Row i of the result depends on row i of `x` only, bit for bit, whatever N is.
///
/// # Errors
/// Shapes that do not fit together.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let rows = || match kernels_for(&[x, weight, bias]) {
        Some(isa) => graph::linear::linear(isa, x, weight, bias),
        None => slow::linear(x, weight, bias),
    };
    graph::trace::linear(rows, x, weight)
}

/// `x · sigmoid(x)`, elementwise.
///
/// # Errors
/// None of its own; whatever the device reports.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    match kernels_for(&[x]) {
        Some(isa) => graph::silu::silu(isa, x),
        None => slow::silu(x),
    }
}

/// A residual block with a time embedding (Ho et al. 2020, appendix B): `x` (N, Cin, H, W) and `embedding`
/// (N, Cout) to (N, Cout, H, W),
/// `skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + embedding)))`, or as [`TimeConditioning`] says.
///
/// # Errors
/// Shapes that do not fit together.
pub fn residual_block(x: &Tensor, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Tensor> {
    FeatureMap::from_images(x)?.residual_block(embedding, block)?.to_images()
}

/// The sum of the squares of all elements. For `f32` on the CPU, parts are added up in `f64`.
///
/// # Errors
/// None of its own; whatever the device reports.
pub fn square_sum(x: &Tensor) -> Result<f64> {
    match kernels_for(&[x]) {
        Some(isa) => optim::square_sum(isa, x),
        None => slow::square_sum(x),
    }
}

/// One update of a parameter by AdamW (Loshchilov & Hutter 2019, algorithm 2) in PyTorch's order of operations, and of
/// the moving average of its weights, all where they are:
///
/// ```text
/// m ← β₁·m + (1 − β₁)·g          v ← β₂·v + (1 − β₂)·g²
/// w ← (1 − lr·decay)·w − lr/(1 − β₁ᵏ) · m / (√v/√(1 − β₂ᵏ) + eps)
/// average ← average − share·(average − w)
/// ```
///
/// # Errors
/// Different shapes; tensors that share memory; a `step` of 0.
pub fn adamw(gradient: &Tensor, trained: &Trained<'_>, constants: &AdamW) -> Result<()> {
    trained.check(gradient, constants)?;
    let Trained { weight, first, second, average } = trained;
    let kept: [&Tensor; 4] =
        [weight, first, second, average.map_or(*weight, |(average, _)| average)];
    match kernels_for(&kept).filter(|_| kept.iter().all(|t| t.is_contiguous())) {
        Some(isa) if kernels_for(&[gradient]).is_some() => {
            optim::adamw::adamw(isa, gradient, trained, constants)
        }
        _ => slow::adamw(gradient, trained, constants),
    }
}

/// One update of many matrices by Muon, all where they are: the gradient g becomes a momentum, and the weight, whose first dimension
/// are rows and whose others are taken as one, moves along its direction with all singular values near 1:
///
/// ```text
/// m ← momentum·m + g          d ← orthogonalised(g + momentum·m)
/// w ← (1 − lr·decay)·w − lr·update_rms·√max(rows, columns) · d
/// average ← average − share·(average − w)
/// ```
///
/// The momentum is `first`; `second` is not used.
///
/// # Errors
/// A parameter of fewer than two dimensions; a gradient, momentum or average of another shape; tensors that share memory.
pub fn muon(updates: &[Update<'_>], constants: &Muon) -> Result<()> {
    let mut all = Vec::new();
    for (gradient, Trained { weight, first, average, .. }) in updates {
        let average = average.map_or(*weight, |(average, _)| average);
        let kept: [&Tensor; 4] = [weight, first, average, gradient];
        if kept.iter().any(|t| t.dims() != weight.dims()) {
            bail!(
                "muon: gradient, momentum and average must have the shape {:?} of the weight",
                weight.dims()
            );
        }
        all.extend(kept);
    }
    match kernels_for(&all).filter(|_| all.iter().all(|t| t.is_contiguous())) {
        Some(isa) => optim::muon::muon(isa, updates, constants),
        None => slow::muon(updates, constants),
    }
}
