//! Times each operation against its plain definition, interleaved, at the sizes of the MNIST U-Net.
//!
//! `cargo run -p diffusion-kernels --example bench [-- BATCH [FILTER]]`. Prints medians in milliseconds, the
//! ratio, and for convolutions the rate in multiplications and additions of the plain sum, of which Winograd's
//! method does fewer. With backward, the sum of the result and candle's own adding up of gradients are included.

use std::hint::black_box;
use std::time::Instant;

use candle_core::{Device, Result, Tensor, Var};
use diffusion_kernels::{
    Activation, ResidualBlock, conv_transpose2d, conv2d, group_norm, linear, residual_block, silu, slow,
};

type Run<'a> = Box<dyn Fn() -> Result<()> + 'a>;

fn randn(shape: &[usize]) -> Result<Var> {
    Var::randn(0f32, 1.0, shape, &Device::Cpu)
}

/// Milliseconds of each of `runs`, the median of several rounds in which they take turns.
fn medians(runs: &[&Run<'_>]) -> Result<Vec<f64>> {
    let mut times = vec![Vec::new(); runs.len()];
    let begin = Instant::now();
    while times[0].len() < 3 || (times[0].len() < 15 && begin.elapsed().as_secs_f64() < 1.5) {
        for (run, times) in runs.iter().zip(&mut times) {
            let start = Instant::now();
            run()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(times
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
        .collect())
}

/// One line of the table, if the filter lets it through: forward, and forward with backward, of `fast` and `slow`.
fn compare(
    filter: &str,
    name: &str,
    flops: f64,
    vars: &[&Var],
    fast: &dyn Fn() -> Result<Tensor>,
    slow: &dyn Fn() -> Result<Tensor>,
) -> Result<()> {
    if !name.contains(filter) {
        return Ok(());
    }
    // The gradient of a sum is a broadcast, which the kernels must copy: a part of what is measured.
    let both = |f: &dyn Fn() -> Result<Tensor>| -> Result<()> {
        let grads = f()?.sum_all()?.backward()?;
        for var in vars {
            black_box(grads.get(var));
        }
        Ok(())
    };
    let forward = |f: &dyn Fn() -> Result<Tensor>| f().map(|y| drop(black_box(y)));
    let runs: [Run<'_>; 4] = [
        Box::new(|| forward(fast)),
        Box::new(|| forward(slow)),
        Box::new(|| both(fast)),
        Box::new(|| both(slow)),
    ];
    let t = medians(&runs.iter().collect::<Vec<_>>())?;
    print!("{name:34}");
    for t in t.chunks(2) {
        print!(" {:8.2} {:8.2} {:6.3}  ", t[0], t[1], t[0] / t[1]);
    }
    if flops > 0.0 {
        print!("   {:6.0} {:6.0} GFLOP/s", flops / t[0] / 1e6, 3.0 * flops / t[2] / 1e6);
    }
    println!();
    Ok(())
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let n: usize = args.next().map_or(64, |n| n.parse().expect("the first argument is the batch size"));
    let filter = args.next().unwrap_or_default();
    println!("batch {n}, {} threads", rayon::current_num_threads());
    println!("{:43}fwd     slow  ratio       +bwd     slow  ratio", "");
    for (cin, cout, side, kernel, stride, padding) in [
        (1, 32, 28, 3, 1, 1),
        (32, 32, 28, 3, 1, 1),
        (32, 32, 28, 3, 2, 1),
        (64, 32, 28, 3, 1, 1),
        (64, 64, 14, 3, 1, 1),
        (128, 64, 14, 3, 1, 1),
        (64, 64, 7, 3, 1, 1),
        (64, 32, 28, 1, 1, 0),
        (32, 1, 28, 1, 1, 0),
    ] {
        let name = format!("conv {cin}→{cout}, {side}², {kernel}×{kernel} /{stride}");
        let (x, w, b) =
            (randn(&[n, cin, side, side])?, randn(&[cout, cin, kernel, kernel])?, randn(&[cout])?);
        let out = (side + 2 * padding - kernel) / stride + 1;
        let flops = 2.0 * (n * cout * out * out * cin * kernel * kernel) as f64;
        compare(
            &filter,
            &name,
            flops,
            &[&x, &w, &b],
            &|| conv2d(&x, &w, Some(&b), stride, padding),
            &|| slow::conv2d(&x, &w, Some(&b), stride, padding),
        )?;
    }
    for (channels, side) in [(64, 7), (32, 14)] {
        let name = format!("conv transposed {channels}, {side}², 4×4 /2");
        let (x, w) = (randn(&[n, channels, side, side])?, randn(&[channels, channels, 4, 4])?);
        let b = randn(&[channels])?;
        let flops = 2.0 * (n * channels * channels * 16 * side * side) as f64;
        compare(&filter, &name, flops, &[&x, &w, &b], &|| conv_transpose2d(&x, &w, Some(&b), 2, 1), &|| {
            slow::conv_transpose2d(&x, &w, Some(&b), 2, 1)
        })?;
    }
    for (channels, side) in [(32, 28), (64, 14), (64, 7)] {
        let name = format!("group norm + SiLU {channels}, {side}²");
        let (x, w, b) = (randn(&[n, channels, side, side])?, randn(&[channels])?, randn(&[channels])?);
        compare(
            &filter,
            &name,
            0.0,
            &[&x, &w, &b],
            &|| group_norm(&x, 8, &w, &b, 1e-5, Activation::Silu),
            &|| slow::group_norm(&x, 8, &w, &b, 1e-5, Activation::Silu),
        )?;
    }
    for (channels, side) in [(32, 28), (64, 14)] {
        let name = format!("residual block {channels}, {side}²");
        let (x, e) = (randn(&[n, channels, side, side])?, randn(&[n, channels])?);
        let (v, w) = (randn(&[channels])?, randn(&[channels, channels, 3, 3])?);
        let (norm, conv) = ((v.as_tensor(), v.as_tensor()), (w.as_tensor(), v.as_tensor()));
        let (groups, eps) = (8, 1e-5);
        let block =
            ResidualBlock { groups, eps, norm1: norm, conv1: conv, norm2: norm, conv2: conv, skip: None };
        let flops = 4.0 * (n * channels * channels * 9 * side * side) as f64;
        compare(&filter, &name, flops, &[&x, &w, &v, &e], &|| residual_block(&x, &e, &block), &|| {
            slow::residual_block(&x, &e, &block)
        })?;
    }
    let (x, w, b) = (randn(&[n, 128])?, randn(&[512, 128])?, randn(&[512])?);
    compare(&filter, "linear 128→512", 0.0, &[&x, &w, &b], &|| linear(&x, &w, &b), &|| {
        slow::linear(&x, &w, &b)
    })?;
    let x = randn(&[n, 32, 28, 28])?;
    compare(&filter, "silu 32, 28²", 0.0, &[&x], &|| silu(&x), &|| slow::silu(&x))
}
