//! All operations except convolutions against their definitions.

use candle_core::Tensor;
use proptest::prelude::*;

use super::{
    all_kernels, bits, block_of, close, close_for, norm_of, random, residual_block, with_gradients,
};
use crate::arith::isa::available;
use crate::graph::{linear, silu};
use crate::optim::{adamw, muon, square_sum};
use crate::{
    Activation, AdamW, DropoutMask, FeatureMap, GroupNorm, Muon, ParameterState, ResidualBlock,
    TimeConditioning, Update, checkpoint_activations, slow,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn group_norm_and_its_gradients_agree_with_the_definition(
        n in 1..5usize, groups in 1..9usize, size in 1..6usize, h in 1..9usize, w in 2..9usize, act in any::<bool>(),
        modulated in any::<bool>()
    ) {
        let channels = groups * size;
        let x = random(1, &[n, channels, h, w]);
        let (weight, bias, modulation) = (random(2, &[channels]), random(3, &[channels]), random(4, &[n, 2 * channels]));
        let activation = if act { Activation::Silu } else { Activation::Identity };
        let all = [&x, &weight, &bias, &modulation];
        let vars = &all[..if modulated { 4 } else { 3 }];
        let modulation = modulated.then_some(modulation.as_tensor());
        let norm = GroupNorm { modulation, activation, ..norm_of(groups, &weight, &bias) };
        let expected = with_gradients(|| slow::group_norm(&x, &norm), vars);
        for isa in available() {
            let fast = with_gradients(|| FeatureMap::with_kernels(isa, &x)?.group_norm(&norm)?.to_images(), vars);
            close(&fast, &expected, 5e-5)?;
        }
    }

    #[test]
    fn attention_and_its_gradients_agree_with_the_definition(
        n in 1..4usize, heads in 1..4usize, width in 1..20usize, h in 1..12usize, w in 1..12usize
    ) {
        let [q, k, v] = [1, 2, 3].map(|seed| random(seed, &[n, heads * width, h, w]));
        let vars = [&q, &k, &v];
        let expected = with_gradients(|| slow::attention(&q, &k, &v, heads), &vars);
        for isa in all_kernels() {
            let fast = with_gradients(|| {
                let map = |x| FeatureMap::with_kernels(isa, x);
                map(&q)?.attention(&map(&k)?, &map(&v)?, heads)?.to_images()
            }, &vars);
            close_for(isa, &fast, &expected, 2e-5)?;
        }
    }

    #[test]
    fn resampled_maps_and_their_gradients_agree_with_the_definition(
        n in 1..4usize, c in 1..20usize, h in 1..7usize, w in 1..7usize
    ) {
        let (small, large) = (random(1, &[n, c, h, w]), random(2, &[n, c, 2 * h, 2 * w]));
        let up = with_gradients(|| slow::upsample_nearest2(&small), &[&small]);
        let down = with_gradients(|| slow::avg_pool2(&large), &[&large]);
        for isa in available() {
            let map = |x| FeatureMap::with_kernels(isa, x);
            close(&with_gradients(|| map(&small)?.upsample_nearest2()?.to_images(), &[&small]), &up, 2e-6)?;
            close(&with_gradients(|| map(&large)?.avg_pool2()?.to_images(), &[&large]), &down, 2e-6)?;
        }
    }

    #[test]
    fn an_optimizers_update_agrees_with_the_definition(
        n in 1..400usize, step in 1..50u64, decay in 0.0..0.1f64, scale in 0.1..1.0f64, averaged in any::<bool>()
    ) {
        let gradient = random(1, &[n]);
        let constants =
            AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: decay, step, gradient_scale: scale };
        let run = |update: &dyn Fn(&ParameterState<'_>) -> candle_core::Result<()>| {
            let [weight, first, second, average] = [2, 3, 4, 5].map(|seed| random(seed, &[n]));
            second.set(&second.sqr().unwrap().detach()).unwrap();
            let averaging = averaged.then_some((&average, 0.1));
            update(&ParameterState { weight: &weight, first: &first, second: &second, average: averaging }).unwrap();
            [weight, first, second, average].map(candle_core::Var::into_inner)
        };
        let expected = run(&|parameter| slow::adamw(&gradient, parameter, &constants));
        for isa in available() {
            let fast = run(&|parameter| adamw::adamw(isa, &gradient, parameter, &constants));
            close(&fast, &expected, 2e-6)?;
            let (fast, expected) = (square_sum(isa, &gradient).unwrap(), slow::square_sum(&gradient).unwrap());
            prop_assert!((fast - expected).abs() <= 1e-5 * expected);
        }
    }

    #[test]
    fn muon_agrees_with_its_definition(rows in 1..40usize, columns in 1..70usize, averaged in any::<bool>()) {
        let shape = [rows, columns];
        let gradient = random(1, &shape);
        let constants = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.05, update_rms: 0.2, gradient_scale: 0.5 };
        let run = |update: &dyn Fn(&[Update<'_>]) -> candle_core::Result<()>| {
            let [weight, first, second, average] = [2, 3, 4, 5].map(|seed| random(seed, &shape));
            let average = averaged.then_some((&average, 0.3));
            update(&[(&gradient, ParameterState { weight: &weight, first: &first, second: &second, average })]).unwrap();
            let average = average.map(|(average, _)| average.as_tensor().clone());
            [vec![weight.as_tensor().clone(), first.as_tensor().clone()], average.into_iter().collect()].concat()
        };
        let expected = run(&|updates| slow::muon(updates, &constants));
        for isa in available() {
            close(&run(&|updates| muon::muon(isa, updates, &constants)), &expected, 2e-5)?;
        }
    }

    #[test]
    fn a_residual_block_and_its_gradients_agree_with_the_definition(
        n in 1..7usize, groups in 1..5usize, sizes in (1..5usize, 1..5usize), side in 3..11usize,
        kernel in prop_oneof![Just(1usize), Just(3), Just(5)], skip in any::<bool>(), width in 0..3usize,
        stacked in 1..4usize, scale_shift in any::<bool>(), dropout in any::<bool>()
    ) {
        // Channels that fill whole vectors are not copied, a separate path.
        // All threads share the work of wide blocks.
        let sizes = match width {
            0 => sizes,
            1 => (16 * sizes.0, 16 * sizes.1),
            _ => (16 * (4 + sizes.0), 16 * (5 + sizes.1)),
        };
        let (groups, n) = if width > 0 { (1, n.min(3)) } else { (groups, n) };
        let kernel = if width == 2 { 3 } else { kernel };
        let cin = groups * sizes.0;
        let cout = if skip { groups * sizes.1 } else { cin };
        let conditioning = if scale_shift { TimeConditioning::ScaleShift } else { TimeConditioning::Add };
        let (x, e) = (random(1, &[n, cin, side, side]), random(2, &[n, conditioning.width(cout)]));
        let shapes: [&[usize]; 10] = [
            &[cin], &[cin], &[cout, cin, kernel, kernel], &[cout], &[cout], &[cout],
            &[cout, cout, kernel, kernel], &[cout], &[cout, cin, 1, 1], &[cout],
        ];
        let p: Vec<_> = (3..).zip(shapes).map(|(seed, shape)| random(seed, shape)).collect();
        let p = &p[..if skip { 10 } else { 8 }];
        let mask = mask_of([n, cout, side, side]);
        let dropout = dropout.then_some(&mask);
        let block = ResidualBlock { dropout, ..block_of(groups, conditioning, p) };
        let mut vars = vec![&x, &e];
        vars.extend(p);
        let expected = with_gradients(|| FeatureMap::from_images_slow(&x).residual_block(&e, &block)?.to_images(), &vars);
        for isa in all_kernels() {
            let fast = with_gradients(|| {
                let parts = x.chunk(stacked, 1)?;
                residual_block(isa, &parts, &e, &block)
            }, &vars);
            let again = with_gradients(|| checkpoint_activations(true, || {
                residual_block(isa, &x.chunk(stacked, 1)?, &e, &block)
            }), &vars);
            prop_assert!(again.iter().map(bits).eq(fast.iter().map(bits)));
            close_for(isa, &fast, &expected, 2e-4)?;
        }
    }

    #[test]
    fn linear_and_its_gradients_agree_with_the_definition(
        n in 1..20usize, inputs in 1..140usize, outputs in 1..140usize
    ) {
        let x = random(1, &[n, inputs]);
        let (weight, bias) = (random(2, &[outputs, inputs]), random(3, &[outputs]));
        let vars = [&x, &weight, &bias];
        let expected = with_gradients(|| slow::linear(&x, &weight, &bias), &vars);
        for isa in all_kernels() {
            close_for(isa, &with_gradients(|| linear::linear(isa, &x, &weight, &bias), &vars), &expected, 2e-5)?;
        }
    }

    #[test]
    fn silu_and_its_gradient_agree_with_the_definition(n in 1..100usize, scale in 0.1..30.0f64) {
        let x = random(1, &[n, 3]);
        let run = |f: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>| with_gradients(|| f(&(x.as_tensor() * scale)?), &[&x]);
        let expected = run(&|x| slow::silu(x));
        for isa in available() {
            close(&run(&|x| silu::silu(isa, x)), &expected, 2e-6)?;
        }
    }
}

/// A mask that keeps about three quarters of the activations.
fn mask_of(dims: [usize; 4]) -> DropoutMask {
    let draws = (0..dims[0]).map(|image| {
        let mut state = image as u64;
        move |numbers: &mut [u32]| {
            for number in numbers {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                *number = (state >> 32) as u32;
            }
        }
    });
    DropoutMask::draw(dims, 0.25, draws.collect())
}

#[test]
fn dropout_and_its_gradient_agree_with_the_definition() {
    for channels in [1, 16, 21, 32] {
        let x = random(1, &[3, channels, 5, 4]);
        let mask = mask_of([3, channels, 5, 4]);
        let factors: Vec<f32> = mask.factors();
        assert!(factors.iter().all(|factor| [0.0, 1.0 / 0.75].contains(factor)));
        assert!(factors.contains(&0.0) && factors.iter().any(|factor| *factor > 0.0));
        let expected = with_gradients(|| slow::dropout(&x, &mask), &[&x]);
        for isa in available() {
            let fast = || FeatureMap::with_kernels(isa, &x)?.dropout(&mask)?.to_images();
            close(&with_gradients(fast, &[&x]), &expected, 0.0).unwrap();
        }
    }
    let map = FeatureMap::from_images(&random(1, &[3, 4, 5, 4])).unwrap();
    let error = map.dropout(&mask_of([3, 4, 5, 5])).unwrap_err().to_string();
    assert!(error.contains("[3, 4, 5, 4]") && error.contains("[3, 4, 5, 5]"), "{error}");
}

#[test]
fn sums_of_maps_and_their_gradients_agree_with_the_definition() {
    for (n, c, h, w) in [(1, 1, 1, 1), (3, 5, 7, 4), (2, 32, 14, 14), (1, 19, 3, 2)] {
        let (x, e, z) = (random(1, &[n, c, h, w]), random(2, &[n, c]), random(3, &[n, c, h, w]));
        let vars = [&x, &e, &z];
        let expected = with_gradients(|| slow::add_channel_embedding(&x, &e)?.add(&z), &vars);
        for isa in available() {
            let run = || {
                let map = |x| FeatureMap::with_kernels(isa, x);
                map(&x)?.add_channel_embedding(&e)?.add(&map(&z)?)?.to_images()
            };
            close(&with_gradients(run, &vars), &expected, 1e-5).unwrap();
        }
    }
}

/// If the mean is far from 0, the sums of a normalisation lose digits. The kernels must not lose
/// more than the definition.
#[test]
fn normalisations_of_large_numbers_keep_their_digits() {
    let shape = [1, 16, 96, 96];
    let x = (random(1, &shape).as_tensor() + 300.0).unwrap();
    let (weight, bias) =
        (Tensor::ones(16, candle_core::DType::F32, x.device()).unwrap(), random(2, &[16]));
    let norm = norm_of(4, &weight, &bias);
    let double = |t: &Tensor| t.to_dtype(candle_core::DType::F64).unwrap();
    let exact = slow::group_norm(
        &double(&x),
        &GroupNorm { weight: &double(&weight), bias: &double(&bias), ..norm },
    );
    let exact = exact.unwrap().to_dtype(candle_core::DType::F32).unwrap();
    for isa in available() {
        let fast = FeatureMap::with_kernels(isa, &x)
            .unwrap()
            .group_norm(&norm)
            .unwrap()
            .to_images()
            .unwrap();
        close(&[fast], std::slice::from_ref(&exact), 1e-4).unwrap();
    }
}

#[test]
fn concatenated_maps_and_their_gradients_agree_with_the_definition() {
    let (a, b, c) = (random(1, &[3, 5, 4, 6]), random(2, &[3, 2, 4, 6]), random(3, &[3, 1, 4, 6]));
    let expected = with_gradients(|| Tensor::cat(&[&*a, &*b, &*c], 1), &[&a, &b, &c]);
    for isa in available() {
        let fast = with_gradients(
            || {
                let [a, b, c] = [&a, &b, &c].map(|x| FeatureMap::with_kernels(isa, x).unwrap());
                assert_eq!(a.cat(&b)?.dims(), [3, 7, 4, 6]);
                a.cat(&b)?.cat(&c)?.to_images()
            },
            &[&a, &b, &c],
        );
        close(&fast, &expected, 0.0).unwrap();
    }
}

#[test]
fn arguments_need_not_be_contiguous() {
    let x = random(1, &[2, 7, 5, 3]);
    let weight = random(2, &[3, 3, 3, 4]);
    let (x_t, weight_t) = (x.transpose(1, 3).unwrap(), weight.transpose(0, 3).unwrap());
    let fast = with_gradients(|| crate::conv2d(&x_t, &weight_t, None, 1, 1), &[&x, &weight]);
    let expected =
        with_gradients(|| slow::conv2d(&x_t, &weight_t.contiguous()?, None, 1, 1), &[&x, &weight]);
    close(&fast, &expected, 1e-5).unwrap();
    let fast = with_gradients(|| crate::silu(&x_t), &[&x]);
    close(&fast, &with_gradients(|| slow::silu(&x_t), &[&x]), 1e-5).unwrap();
}

#[test]
fn other_types_use_the_definition() {
    let x = random(1, &[2, 4, 5, 5]).to_dtype(candle_core::DType::F64).unwrap();
    let weight = random(2, &[3, 4, 3, 3]).to_dtype(candle_core::DType::F64).unwrap();
    let y = crate::conv2d(&x, &weight, None, 1, 1).unwrap();
    let expected = slow::conv2d(&x, &weight, None, 1, 1).unwrap();
    assert_eq!(
        y.flatten_all().unwrap().to_vec1::<f64>().unwrap(),
        expected.flatten_all().unwrap().to_vec1::<f64>().unwrap()
    );
    let ones = random(3, &[4]).to_dtype(candle_core::DType::F64).unwrap();
    assert!(crate::group_norm(&x, &norm_of(2, &ones, &ones)).is_ok());
    assert!(
        FeatureMap::from_images(&x)
            .and_then(|x| x.conv_transpose2d(&weight.transpose(0, 1)?.contiguous()?, None, 2, 1))
            .is_ok()
    );
    assert!(
        crate::linear(
            &x.flatten_from(1).unwrap(),
            &x.flatten_from(1).unwrap(),
            &ones.narrow(0, 0, 2).unwrap()
        )
        .is_ok()
    );
}
