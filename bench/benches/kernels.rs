//! Benchmarks of each kernel at the sizes of the `mnist` preset's network: `cargo bench -p
//! diffusion-bench [-- FILTER]`.
//!
//! Items are the floating-point operations of the plain sums, so a rate in Gitem/s equals GFLOP/s.
//! Compare it with `sgemm`, the machine's limit. Winograd's method needs fewer operations and may
//! exceed the limit. "Backward" is a forward and a backward pass together. `RAYON_NUM_THREADS` sets
//! the number of threads, `DIFFUSION_KERNELS` the kernels.

use std::fmt;

use candle_core::{Device, Result, Tensor, Var};
use diffusion_kernels::{
    Activation, AdamW, FeatureMap, GroupNorm, ParameterState, ResidualBlock, TimeConditioning,
    adamw, group_norm, linear, residual_block, silu,
};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

const BATCH: usize = 64;

fn main() {
    divan::main();
}

fn randn(shape: &[usize]) -> Var {
    Var::randn(0f32, 1.0, shape, &Device::Cpu).expect("memory for random numbers")
}

/// A convolution or transposed convolution of square images. `channels` are the input and output
/// channels.
#[derive(Clone, Copy)]
struct Convolution {
    transposed: bool,
    channels: [usize; 2],
    side: usize,
    kernel: usize,
    stride: usize,
}

const fn convolution(
    cin: usize,
    cout: usize,
    side: usize,
    kernel: usize,
    stride: usize,
) -> Convolution {
    Convolution { transposed: false, channels: [cin, cout], side, kernel, stride }
}

const fn transposed(channels: usize, side: usize) -> Convolution {
    Convolution { transposed: true, channels: [channels, channels], side, kernel: 4, stride: 2 }
}

const CONVOLUTIONS: [Convolution; 11] = [
    convolution(1, 32, 28, 3, 1),
    convolution(32, 32, 28, 3, 1),
    convolution(64, 32, 28, 3, 1),
    convolution(64, 64, 14, 3, 1),
    convolution(128, 32, 14, 3, 1),
    convolution(64, 64, 7, 3, 1),
    convolution(32, 32, 28, 3, 2),
    convolution(64, 32, 28, 1, 1),
    convolution(32, 1, 28, 1, 1),
    transposed(64, 7),
    transposed(32, 14),
];

impl fmt::Display for Convolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transposed, channels: [cin, cout], side, kernel, stride } = self;
        let kind = if *transposed { "transposed " } else { "" };
        write!(f, "{kind}{cin}→{cout} at {side}², {kernel}×{kernel} /{stride}")
    }
}

impl Convolution {
    fn flops(&self) -> usize {
        let pixels =
            if self.transposed { self.side.pow(2) } else { self.side.div_ceil(self.stride).pow(2) };
        2 * BATCH * pixels * self.channels.iter().product::<usize>() * self.kernel.pow(2)
    }

    /// Random images (N, C, H, W), weight and bias.
    fn parameters(&self) -> [Var; 3] {
        let Self { transposed, channels: [cin, cout], side, kernel, .. } = *self;
        let order =
            if transposed { [cin, cout, kernel, kernel] } else { [cout, cin, kernel, kernel] };
        [randn(&[BATCH, cin, side, side]), randn(&order), randn(&[cout])]
    }

    fn run(&self, x: &FeatureMap, weight: &Tensor, bias: &Tensor) -> Result<FeatureMap> {
        let padding = self.kernel.div_ceil(2) - 1;
        if self.transposed {
            x.conv_transpose2d(weight, Some(bias), self.stride, padding)
        } else {
            x.conv2d(weight, Some(bias), self.stride, padding)
        }
    }
}

#[divan::bench(args = CONVOLUTIONS)]
fn convolution_forward(bencher: Bencher<'_, '_>, case: Convolution) {
    let [x, weight, bias] = case.parameters();
    let x = FeatureMap::from_images(&x.as_detached_tensor()).expect("images");
    let (weight, bias) = (weight.as_detached_tensor(), bias.as_detached_tensor());
    bencher
        .counter(ItemsCount::new(case.flops()))
        .bench(|| case.run(&x, &weight, &bias).expect("a convolution"));
}

/// Includes the conversion between images and feature maps, which a network does only once.
#[divan::bench(args = CONVOLUTIONS)]
fn convolution_backward(bencher: Bencher<'_, '_>, case: Convolution) {
    let [x, weight, bias] = case.parameters();
    bencher.counter(ItemsCount::new(3 * case.flops())).bench(|| {
        let x = FeatureMap::from_images(&x).expect("images");
        gradients(case.run(&x, &weight, &bias).and_then(|y| y.to_images()));
    });
}

fn gradients(y: Result<Tensor>) {
    let gradients = y.and_then(|y| y.sum_all()?.backward()).expect("gradients");
    black_box(gradients);
}

/// Channels and side of residual blocks without a skip convolution.
const BLOCKS: [(usize, usize); 3] = [(32, 28), (64, 14), (64, 7)];

fn block(bencher: Bencher<'_, '_>, (channels, side): (usize, usize), backward: bool) {
    let (x, e) = (randn(&[BATCH, channels, side, side]), randn(&[BATCH, channels]));
    let (v, w) = (randn(&[channels]), randn(&[channels, channels, 3, 3]));
    let flops = 4 * BATCH * channels * channels * 9 * side * side;
    let flops = ItemsCount::new(if backward { 3 * flops } else { flops });
    let [x, e, v, w] =
        [x, e, v, w].map(|x| if backward { x.into_inner() } else { x.as_detached_tensor() });
    let (norm, conv) = ((&v, &v), (&w, &v));
    let block = ResidualBlock {
        groups: 8,
        eps: 1e-5,
        conditioning: TimeConditioning::Add,
        norm1: norm,
        conv1: conv,
        norm2: norm,
        conv2: conv,
        skip: None,
        dropout: None,
    };
    let run = || residual_block(&x, &e, &block);
    if backward {
        bencher.counter(flops).bench(|| gradients(run()));
    } else {
        bencher.counter(flops).bench(|| run().expect("a block"));
    }
}

#[divan::bench(args = BLOCKS)]
fn residual_block_forward(bencher: Bencher<'_, '_>, case: (usize, usize)) {
    block(bencher, case, false);
}

#[divan::bench(args = BLOCKS)]
fn residual_block_backward(bencher: Bencher<'_, '_>, case: (usize, usize)) {
    block(bencher, case, true);
}

#[divan::bench(args = BLOCKS)]
fn group_norm_and_silu_backward(bencher: Bencher<'_, '_>, (channels, side): (usize, usize)) {
    let (x, w, b) = (randn(&[BATCH, channels, side, side]), randn(&[channels]), randn(&[channels]));
    let activation = Activation::Silu;
    let norm =
        GroupNorm { groups: 8, eps: 1e-5, weight: &w, bias: &b, modulation: None, activation };
    bencher.bench(|| gradients(group_norm(&x, &norm)));
}

/// Channels, heads and side.
#[divan::bench(args = [(64, 1, 7), (64, 4, 14), (128, 4, 16), (256, 1, 16)])]
fn attention_backward(bencher: Bencher<'_, '_>, (channels, heads, side): (usize, usize, usize)) {
    let x = randn(&[BATCH, channels, side, side]);
    let flops = 4 * BATCH * side.pow(4) * channels;
    bencher.counter(ItemsCount::new(3 * flops)).bench(|| {
        let map = FeatureMap::from_images(&x).expect("images");
        gradients(map.attention(&map, &map, heads).and_then(|y| y.to_images()));
    });
}

#[divan::bench]
fn silu_backward(bencher: Bencher<'_, '_>) {
    let x = randn(&[BATCH, 32, 28, 28]);
    bencher.bench(|| gradients(silu(&x)));
}

#[divan::bench]
fn linear_backward(bencher: Bencher<'_, '_>) {
    let (x, w, b) = (randn(&[BATCH, 128]), randn(&[512, 128]), randn(&[512]));
    bencher.counter(ItemsCount::new(6 * BATCH * 128 * 512)).bench(|| gradients(linear(&x, &w, &b)));
}

/// AdamW, the moving average and the gradient's norm, for the number of parameters of the network.
#[divan::bench]
fn optimizer(bencher: Bencher<'_, '_>) {
    let [gradient, weight, first, second, average] = [(); 5].map(|()| randn(&[520_193]));
    let state = ParameterState {
        weight: &weight,
        first: &first,
        second: &second,
        average: Some((&average, 0.01)),
    };
    let constants = AdamW {
        lr: 1e-6,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 10,
        gradient_scale: 1.0,
    };
    bencher.bench(|| {
        black_box(diffusion_kernels::square_sum(&gradient).expect("a sum"));
        adamw(&gradient, &state, &constants).expect("an update");
    });
}

/// Candle's matrix product, the reference for the other rates.
#[divan::bench]
fn sgemm(bencher: Bencher<'_, '_>) {
    const N: usize = 1024;
    let (a, b) = (randn(&[N, N]).as_detached_tensor(), randn(&[N, N]).as_detached_tensor());
    bencher.counter(ItemsCount::new(2 * N.pow(3))).bench(|| a.matmul(&b).expect("a product"));
}
