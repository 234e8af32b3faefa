//! Times a forward and backward pass of SPEC's MNIST U-Net, its blocks as one operation, as separate kernels,
//! and by the plain definitions, in turns.
//!
//! `cargo run -p diffusion-kernels --example step [-- BATCH [ROUNDS [WAY …]]]`. No optimiser, no loader: the network only.

use std::time::Instant;

use candle_core::{Device, Result, Tensor, Var};
use diffusion_kernels as fast;
use diffusion_kernels::{Activation, ResidualBlock, slow};

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Blocks,
    Separate,
    Plain,
}

/// Variables in the order they are asked for.
#[derive(Default)]
struct Parameters {
    vars: Vec<Var>,
    next: usize,
}

impl Parameters {
    fn get(&mut self, shape: &[usize]) -> Result<Tensor> {
        if self.next == self.vars.len() {
            self.vars.push(Var::randn(0f32, 0.05, shape, &Device::Cpu)?);
        }
        self.next += 1;
        Ok(self.vars[self.next - 1].as_tensor().clone())
    }

    fn pair(&mut self, shape: &[usize], outputs: usize) -> Result<(Tensor, Tensor)> {
        Ok((self.get(shape)?, self.get(&[outputs])?))
    }
}

fn conv(p: &mut Parameters, way: Way, x: &Tensor, cout: usize, k: usize, stride: usize) -> Result<Tensor> {
    let (w, b) = p.pair(&[cout, x.dims()[1], k, k], cout)?;
    let f = if way == Way::Plain { slow::conv2d } else { fast::conv2d };
    f(x, &w, Some(&b), stride, k / 2)
}

fn up(p: &mut Parameters, way: Way, x: &Tensor) -> Result<Tensor> {
    let c = x.dims()[1];
    let (w, b) = p.pair(&[c, c, 4, 4], c)?;
    let f = if way == Way::Plain { slow::conv_transpose2d } else { fast::conv_transpose2d };
    f(x, &w, Some(&b), 2, 1)
}

fn linear(p: &mut Parameters, way: Way, x: &Tensor, outputs: usize) -> Result<Tensor> {
    let (w, b) = p.pair(&[outputs, x.dims()[1]], outputs)?;
    if way == Way::Plain { slow::linear(x, &w, &b) } else { fast::linear(x, &w, &b) }
}

fn block(p: &mut Parameters, way: Way, x: &Tensor, time: &Tensor, cout: usize) -> Result<Tensor> {
    let cin = x.dims()[1];
    let embedding = linear(p, way, time, cout)?;
    let (n1, c1) = (p.pair(&[cin], cin)?, p.pair(&[cout, cin, 3, 3], cout)?);
    let (n2, c2) = (p.pair(&[cout], cout)?, p.pair(&[cout, cout, 3, 3], cout)?);
    let skip = if cin == cout { None } else { Some(p.pair(&[cout, cin, 1, 1], cout)?) };
    let block = ResidualBlock {
        groups: 8,
        eps: 1e-5,
        norm1: (&n1.0, &n1.1),
        conv1: (&c1.0, &c1.1),
        norm2: (&n2.0, &n2.1),
        conv2: (&c2.0, &c2.1),
        skip: skip.as_ref().map(|(w, b)| (w, b)),
    };
    match way {
        Way::Blocks => fast::residual_block(x, &embedding, &block),
        Way::Plain => slow::residual_block(x, &embedding, &block),
        Way::Separate => {
            let h = fast::group_norm(x, 8, &n1.0, &n1.1, 1e-5, Activation::Silu)?;
            let h = fast::add_channel_embedding(&fast::conv2d(&h, &c1.0, Some(&c1.1), 1, 1)?, &embedding)?;
            let h = fast::group_norm(&h, 8, &n2.0, &n2.1, 1e-5, Activation::Silu)?;
            let h = fast::conv2d(&h, &c2.0, Some(&c2.1), 1, 1)?;
            match &skip {
                Some((w, b)) => h + fast::conv2d(x, w, Some(b), 1, 0)?,
                None => h + x,
            }
        }
    }
}

fn cat(way: Way, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if way == Way::Plain { slow::cat_channels(a, b) } else { fast::cat_channels(a, b) }
}

fn unet(p: &mut Parameters, way: Way, x: &Tensor, time: &Tensor) -> Result<Tensor> {
    p.next = 0;
    let time = linear(p, way, time, 512)?.silu()?;
    let time = linear(p, way, &time, 128)?;
    let stem = conv(p, way, x, 32, 3, 1)?;
    let e1 = block(p, way, &stem, &time, 32)?;
    let d1 = conv(p, way, &e1, 32, 3, 2)?;
    let e2 = block(p, way, &d1, &time, 64)?;
    let d2 = conv(p, way, &e2, 64, 3, 2)?;
    let mid = block(p, way, &d2, &time, 64)?;
    let u2 = up(p, way, &mid)?;
    let d2 = block(p, way, &cat(way, &u2, &e2)?, &time, 32)?;
    let u1 = up(p, way, &d2)?;
    let d1 = block(p, way, &cat(way, &u1, &e1)?, &time, 32)?;
    conv(p, way, &d1, 1, 1, 1)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default| args.get(i).map_or(default, |a| a.parse().expect("a number"));
    let (n, rounds) = (number(0, 64), number(1, 9));
    let mut p = Parameters::default();
    let x = Tensor::randn(0f32, 1.0, (n, 1, 28, 28), &Device::Cpu)?;
    let time = Tensor::randn(0f32, 1.0, (n, 128), &Device::Cpu)?;
    let mut ways = vec![("blocks", Way::Blocks), ("separate", Way::Separate), ("plain", Way::Plain)];
    ways.retain(|(name, _)| args.len() < 3 || args[2..].iter().any(|a| a == name));
    let mut times: [[Vec<f64>; 2]; 3] = Default::default();
    for _ in 0..rounds {
        for (i, (_, way)) in ways.iter().enumerate() {
            let start = Instant::now();
            let loss = (unet(&mut p, *way, &x, &time)? - &x)?.sqr()?.mean_all()?;
            times[i][0].push(start.elapsed().as_secs_f64() * 1e3);
            loss.backward()?;
            times[i][1].push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    println!("batch {n}, {} threads, medians of {rounds} rounds in ms", rayon::current_num_threads());
    for ((name, _), times) in ways.into_iter().zip(&mut times) {
        for times in times.iter_mut() {
            times.sort_by(f64::total_cmp);
        }
        println!(
            "{name:10} forward {:8.1}   with backward {:8.1}",
            times[0][rounds / 2],
            times[1][rounds / 2]
        );
    }
    Ok(())
}
