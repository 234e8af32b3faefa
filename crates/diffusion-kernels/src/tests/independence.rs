//! Results must not depend on the batch size, other images or the number of threads.

use candle_core::{Result, Tensor, Var};

use super::{
    all_kernels, bits, block_of, conv_transpose2d, conv2d, norm_of, random, residual_block,
    with_gradients,
};
use crate::arith::isa::{Isa, available};
use crate::graph::{linear, silu};
use crate::{Activation, FeatureMap, GroupNorm, TimeConditioning};

type Op = (&'static str, Var, Vec<Var>, Box<dyn Fn(&Tensor, &[Var]) -> Result<Tensor> + Sync>);

fn operations() -> Vec<Op> {
    let mut ops: Vec<Op> = Vec::new();
    for isa in all_kernels() {
        for (h, w, cin, cout, kernel, stride, padding) in [
            (28, 28, 32, 32, 3, 1, 1),
            (9, 7, 5, 19, 3, 2, 1),
            (7, 7, 64, 64, 3, 1, 1),
            (6, 5, 40, 3, 1, 1, 0),
            (8, 5, 96, 112, 3, 1, 1),
        ] {
            let x = random(1, &[11, cin, h, w]);
            let (weight, bias) = (random(2, &[cout, cin, kernel, kernel]), random(3, &[cout]));
            ops.push((
                "conv2d",
                x,
                vec![weight, bias],
                Box::new(move |x, p| conv2d(isa, x, &p[0], Some(&p[1]), stride, padding)),
            ));
        }
        let parameters = vec![random(2, &[24, 17, 4, 4]), random(3, &[17])];
        ops.push((
            "conv_transpose2d",
            random(1, &[11, 24, 7, 5]),
            parameters,
            Box::new(move |x, p| conv_transpose2d(isa, x, &p[0], Some(&p[1]), 2, 1)),
        ));
        let parameters = vec![random(2, &[24]), random(3, &[24])];
        ops.push((
            "group_norm",
            random(1, &[11, 24, 9, 7]),
            parameters,
            Box::new(move |x, p| {
                let norm = GroupNorm { activation: Activation::Silu, ..norm_of(8, &p[0], &p[1]) };
                FeatureMap::with_kernels(isa, x)?.group_norm(&norm)?.to_images()
            }),
        ));
        let parameters = vec![random(2, &[70, 33]), random(3, &[70])];
        ops.push((
            "linear",
            random(1, &[11, 33]),
            parameters,
            Box::new(move |x, p| linear::linear(isa, x, &p[0], &p[1])),
        ));
        for (name, cin, cout) in [("residual_block", 16, 24), ("wide residual_block", 96, 112)] {
            let shapes: [&[usize]; 11] = [
                &[11, cout],
                &[cin],
                &[cin],
                &[cout, cin, 3, 3],
                &[cout],
                &[cout],
                &[cout],
                &[cout, cout, 3, 3],
                &[cout],
                &[cout, cin, 1, 1],
                &[cout],
            ];
            let parameters = (2..).zip(shapes).map(|(seed, shape)| random(seed, shape)).collect();
            ops.push((
                name,
                random(1, &[11, cin, 9, 7]),
                parameters,
                Box::new(move |x, p| {
                    // `x` may be a part of the batch. Its offset tells which embeddings belong to
                    // it.
                    let first = x.layout().start_offset() / (cin * 63);
                    let embedding = p[0].narrow(0, first, x.dims()[0])?;
                    let block = block_of(8, TimeConditioning::Add, &p[1..]);
                    let parts = [x.narrow(1, 0, 7)?, x.narrow(1, 7, cin - 7)?];
                    residual_block(isa, &parts, &embedding, &block)
                }),
            ));
        }
        let parameters = vec![random(2, &[11, 24])];
        ops.push((
            "add_channel_embedding",
            random(1, &[11, 24, 9, 7]),
            parameters,
            Box::new(move |x, p| {
                let first = x.layout().start_offset() / (24 * 63);
                let embedding = p[0].narrow(0, first, x.dims()[0])?;
                FeatureMap::with_kernels(isa, x)?.add_channel_embedding(&embedding)?.to_images()
            }),
        ));
        ops.push((
            "attention",
            random(1, &[11, 72, 9, 7]),
            vec![],
            Box::new(move |x, _| {
                let map = |first| FeatureMap::with_kernels(isa, &x.narrow(1, first, 24)?);
                map(0)?.attention(&map(24)?, &map(48)?, 3)?.to_images()
            }),
        ));
        ops.push((
            "silu",
            random(1, &[11, 2000]),
            vec![],
            Box::new(move |x, _| silu::silu(isa, x)),
        ));
    }
    ops
}

#[test]
fn the_result_of_an_image_does_not_depend_on_the_batch() {
    for (name, x, parameters, f) in operations() {
        let whole = f(&x, &parameters).unwrap();
        for (first, n) in [(0, 1), (3, 1), (10, 1), (2, 5), (7, 4)] {
            let part = f(&x.narrow(0, first, n).unwrap(), &parameters).unwrap();
            assert_eq!(
                bits(&part),
                bits(&whole.narrow(0, first, n).unwrap()),
                "{name}, {n} images from {first}"
            );
        }
    }
}

#[test]
fn results_and_gradients_are_the_same_for_any_number_of_threads() {
    for (name, x, parameters, f) in operations() {
        let vars: Vec<&Var> = std::iter::once(&x).chain(&parameters).collect();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| with_gradients(|| f(&x, &parameters), &vars))
                .iter()
                .map(bits)
                .collect::<Vec<_>>()
        };
        let one = run(1);
        for threads in [2, 3] {
            assert!(run(threads) == one, "{name} with {threads} threads");
        }
    }
}

#[test]
fn avx2_and_avx512_agree_to_the_bit_in_convolutions() {
    let fused: Vec<_> = available().into_iter().filter(|isa| *isa != Isa::Portable).collect();
    // Sizes that use Winograd's method.
    let (x, weight) = (random(1, &[3, 37, 11, 13]), random(2, &[33, 37, 3, 3]));
    let run = |isa| with_gradients(|| conv2d(isa, &x, &weight, None, 1, 1), &[&x, &weight]);
    let results: Vec<Vec<Vec<u32>>> =
        fused.iter().map(|&isa| run(isa).iter().map(bits).collect()).collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn an_input_that_needs_no_gradient_gets_none() {
    let x = random(1, &[2, 3, 6, 6]);
    let weight = random(2, &[4, 3, 3, 3]);
    let y = crate::conv2d(&x.detach(), &weight, None, 1, 1).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&weight).is_some() && grads.get(&x).is_none());
    let weight = random(2, &[3, 4, 3, 3]);
    let grads = FeatureMap::from_images(&x.detach())
        .and_then(|x| x.conv_transpose2d(&weight, None, 1, 1)?.to_images()?.sum_all())
        .unwrap()
        .backward()
        .unwrap();
    assert!(grads.get(&weight).is_some());
    let grads = crate::linear(
        &x.detach().flatten_from(1).unwrap(),
        &random(3, &[5, 108]),
        &random(4, &[5]),
    );
    assert!(grads.unwrap().sum_all().unwrap().backward().is_ok());
    assert!(crate::silu(&x).unwrap().sum_all().unwrap().backward().unwrap().get(&x).is_some());
    let w = random(5, &[3]);
    assert!(crate::group_norm(&x, &norm_of(3, &w, &w)).is_ok());
}
