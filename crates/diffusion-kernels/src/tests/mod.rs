//! Tests of the kernels against their definitions, with every instruction set of the CPU.

mod agreement;
mod convolutions;
mod differences;
mod direct;
mod errors;
mod graph;
mod independence;
mod parallel;

use candle_core::{Device, Result, Tensor, Var};
use proptest::prelude::*;

use crate::arith::format::Format;
use crate::arith::isa::{Isa, available};
use crate::{
    Activation, FeatureMap, GroupNorm, Padding, Precision, ResidualBlock, TimeConditioning,
};

/// A normalisation without modulation or activation.
fn norm_of<'a>(groups: usize, weight: &'a Tensor, bias: &'a Tensor) -> GroupNorm<'a> {
    GroupNorm {
        groups,
        eps: 1e-3,
        weight,
        bias,
        modulation: None,
        activation: Activation::Identity,
    }
}

/// A block with the parameters `p`, pairs of weight and bias. Ten parameters include a skip.
fn block_of(groups: usize, conditioning: TimeConditioning, p: &[Var]) -> ResidualBlock<'_> {
    let pair = |i: usize| (p[i].as_tensor(), p[i + 1].as_tensor());
    let skip = (p.len() > 8).then(|| pair(8));
    let [norm1, conv1, norm2, conv2] = [0, 2, 4, 6].map(pair);
    ResidualBlock {
        groups,
        eps: 1e-2,
        conditioning,
        norm1,
        conv1,
        norm2,
        conv2,
        skip,
        dropout: None,
    }
}

/// A variable of pseudo-random numbers in (−1, 1), the same for the same seed.
fn random(seed: u64, shape: &[usize]) -> Var {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    };
    let data: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Var::from_tensor(&Tensor::from_vec(data, shape, &Device::Cpu).unwrap()).unwrap()
}

/// The result of `f`, and the gradient of its product with a random cotangent for each of `vars`.
fn with_gradients(f: impl Fn() -> Result<Tensor>, vars: &[&Var]) -> Vec<Tensor> {
    let y = f().unwrap();
    let cotangent = random(99, y.dims());
    let grads = (&y * cotangent.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
    let mut all = vec![y.detach()];
    all.extend(
        vars.iter().map(|var| grads.get(var).expect("every variable has a gradient").clone()),
    );
    all
}

/// All instruction sets that the CPU supports, and the best one in bf16.
fn all_kernels() -> Vec<Isa> {
    let mut all = available();
    let bf16 = all[0].in_precision(Precision::Bf16);
    if !all.contains(&bf16) {
        all.push(bf16);
    }
    all
}

/// [`close`], for kernels in f32. In bf16, single numbers may err by more, but whole tensors err by
/// less than 8e-2: blocks have gradients that are small sums of large numbers.
fn close_for(
    isa: Isa,
    fast: &[Tensor],
    slow: &[Tensor],
    tolerance: f32,
) -> std::result::Result<(), TestCaseError> {
    if isa.format() == Format::F32 {
        return close(fast, slow, tolerance);
    }
    for (i, (fast, slow)) in fast.iter().zip(slow).enumerate() {
        prop_assert_eq!(fast.dims(), slow.dims());
        let error = relative_error(fast, slow);
        prop_assert!(error < 8e-2, "tensor {i} errs by {error}");
    }
    Ok(())
}

/// The relative error of a whole tensor: ‖a − b‖ / ‖b‖, or ‖a − b‖ if that is smaller.
fn relative_error(a: &Tensor, b: &Tensor) -> f32 {
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    norm(&(a - b).unwrap()) / norm(b).max(1.0)
}

/// Checks that each tensor of `fast` is within `tolerance` of that of `slow`, relative to its
/// largest element or 1.
fn close(
    fast: &[Tensor],
    slow: &[Tensor],
    tolerance: f32,
) -> std::result::Result<(), TestCaseError> {
    for (i, (fast, slow)) in fast.iter().zip(slow).enumerate() {
        prop_assert_eq!(fast.dims(), slow.dims());
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (fast, slow) = (numbers(fast), numbers(slow));
        let scale = slow.iter().fold(1f32, |m, x| m.max(x.abs()));
        for (j, (a, b)) in fast.iter().zip(&slow).enumerate() {
            prop_assert!(
                (a - b).abs() <= tolerance * scale,
                "tensor {i}, element {j}: {a} against {b}"
            );
        }
    }
    Ok(())
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn conv2d(
    isa: Isa,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: impl Into<Padding>,
) -> Result<Tensor> {
    FeatureMap::with_kernels(isa, x)?.conv2d(weight, bias, stride, padding)?.to_images()
}

fn conv_transpose2d(
    isa: Isa,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    FeatureMap::with_kernels(isa, x)?.conv_transpose2d(weight, bias, stride, padding)?.to_images()
}

/// The block of the concatenated channels of all `parts`.
fn residual_block(
    isa: Isa,
    parts: &[Tensor],
    embedding: &Tensor,
    block: &ResidualBlock<'_>,
) -> Result<Tensor> {
    let maps = parts.iter().map(|part| FeatureMap::with_kernels(isa, part));
    let stacked = maps.reduce(|a, b| a?.cat(&b?)).expect("a part");
    stacked?.residual_block(embedding, block)?.to_images()
}
