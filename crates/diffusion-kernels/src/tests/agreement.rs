use candle_core::Tensor;
use proptest::prelude::*;

use super::{conv_transpose2d, conv2d, direct, norm_of, random, residual_block, with_gradients};
use crate::isa::available;
use crate::{
    Activation, AdamW, FeatureMap, GroupNorm, Muon, Padding, TimeConditioning, Trained, Update, linear, muon,
    optimize, silu, slow,
};

/// Whether each tensor of `fast` is within `tolerance` of `slow`'s, in proportion to the largest element.
fn close(fast: &[Tensor], slow: &[Tensor], tolerance: f32) -> Result<(), TestCaseError> {
    for (i, (fast, slow)) in fast.iter().zip(slow).enumerate() {
        prop_assert_eq!(fast.dims(), slow.dims());
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (fast, slow) = (numbers(fast), numbers(slow));
        let scale = slow.iter().fold(1f32, |m, x| m.max(x.abs()));
        for (j, (a, b)) in fast.iter().zip(&slow).enumerate() {
            prop_assert!((a - b).abs() <= tolerance * scale, "tensor {i}, element {j}: {a} against {b}");
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Case {
    n: usize,
    cin: usize,
    cout: usize,
    h: usize,
    w: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    bias: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let channels = || prop_oneof![1..5usize, 1..40usize, Just(16), Just(32)];
    let sizes = (1..7usize, channels(), channels(), 1..12usize, 1..20usize);
    let kernel = prop_oneof![
        Just((3, 1, 1)),
        Just((3, 2, 1)),
        Just((1, 1, 0)),
        Just((4, 2, 1)),
        (1..6usize, 1..4usize, 0..4usize)
    ];
    (sizes, kernel, any::<bool>()).prop_map(|((n, cin, cout, h, w), (kernel, stride, padding), bias)| Case {
        n,
        cin,
        cout,
        h,
        w,
        kernel,
        stride,
        padding,
        bias,
    })
}

/// Convolutions that go by Winograd's method, with every kind of ragged edge.
fn winograd_case() -> impl Strategy<Value = Case> {
    (1..4usize, 32..70usize, 32..70usize, 6..21usize, 6..21usize, any::<bool>())
        .prop_filter("enough work", |(_, cin, cout, h, w, _)| crate::winograd::pays(*cin, *cout, h * w))
        .prop_map(|(n, cin, cout, h, w, bias)| Case {
            n,
            cin,
            cout,
            h,
            w,
            kernel: 3,
            stride: 1,
            padding: 1,
            bias,
        })
}

fn convolution_agrees(c: Case) -> Result<(), TestCaseError> {
    let x = random(1, &[c.n, c.cin, c.h, c.w]);
    let weight = random(2, &[c.cout, c.cin, c.kernel, c.kernel]);
    let bias = random(3, &[c.cout]);
    let vars = &[&x, &weight, &bias][..if c.bias { 3 } else { 2 }];
    let b = c.bias.then_some(bias.as_tensor());
    let side = |large: usize| (large + 2 * c.padding - c.kernel) / c.stride + 1;
    let sides = [[c.cout, side(c.h), side(c.w)], [c.cin, c.h, c.w]];
    let zeros = bias.zeros_like().unwrap();
    let arguments = [&x, &weight, b.unwrap_or(&zeros)];
    let direct = direct::convolution(arguments, false, c.n, sides, [c.kernel, c.stride, c.padding]);
    for isa in available() {
        let fast = with_gradients(|| conv2d(isa, &x, &weight, b, c.stride, c.padding), vars);
        close(&fast, &direct, 5e-5)?;
    }
    let slow = || slow::conv2d(&x, &weight, b, c.stride, c.padding);
    close(&[slow().unwrap()], &direct, 2e-5)?;
    // candle has no gradient for oblong images, nor where windows end within the padding: there it subtracts below zero.
    let past_the_padding = (side(c.h) - 1) * c.stride + c.kernel >= 2 * c.padding;
    if c.h == c.w && past_the_padding {
        close(&with_gradients(slow, vars), &direct, 2e-5)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn convolution_by_winograds_method_agrees_with_the_definition(c in winograd_case()) {
        convolution_agrees(c)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn convolution_and_its_gradients_agree_with_the_definition(c in case()) {
        prop_assume!(c.h.min(c.w) + 2 * c.padding >= c.kernel);
        convolution_agrees(c)?;
    }

    #[test]
    fn transposed_convolution_and_its_gradients_agree_with_the_definition(c in case()) {
        prop_assume!((c.h.min(c.w) - 1) * c.stride + c.kernel > 2 * c.padding);
        let x = random(1, &[c.n, c.cin, c.h, c.w]);
        let weight = random(2, &[c.cin, c.cout, c.kernel, c.kernel]);
        let bias = random(3, &[c.cout]);
        let vars = &[&x, &weight, &bias][..if c.bias { 3 } else { 2 }];
        let b = c.bias.then_some(bias.as_tensor());
        let side = |small: usize| (small - 1) * c.stride + c.kernel - 2 * c.padding;
        let sides = [[c.cin, c.h, c.w], [c.cout, side(c.h), side(c.w)]];
        let zeros = bias.zeros_like().unwrap();
        let arguments = [&x, &weight, b.unwrap_or(&zeros)];
        let direct = direct::convolution(arguments, true, c.n, sides, [c.kernel, c.stride, c.padding]);
        for isa in available() {
            let fast =
                with_gradients(|| conv_transpose2d(isa, &x, &weight, b, c.stride, c.padding), vars);
            close(&fast, &direct, 5e-5)?;
        }
        let slow = || slow::conv_transpose2d(&x, &weight, b, c.stride, c.padding);
        close(&[slow().unwrap()], &direct, 2e-5)?;
        close(&with_gradients(slow, vars), &direct, 2e-5)?;
    }

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
        for isa in available() {
            let fast = with_gradients(|| {
                let map = |x| FeatureMap::with_kernels(isa, x);
                map(&q)?.attention(&map(&k)?, &map(&v)?, heads)?.to_images()
            }, &vars);
            close(&fast, &expected, 2e-5)?;
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
        let run = |update: &dyn Fn(&Trained<'_>) -> candle_core::Result<()>| {
            let [weight, first, second, average] = [2, 3, 4, 5].map(|seed| random(seed, &[n]));
            second.set(&second.sqr().unwrap().detach()).unwrap();
            let kept = averaged.then_some((&average, 0.1));
            update(&Trained { weight: &weight, first: &first, second: &second, average: kept }).unwrap();
            [weight, first, second, average].map(candle_core::Var::into_inner)
        };
        let expected = run(&|trained| slow::adamw(&gradient, trained, &constants));
        for isa in available() {
            let fast = run(&|trained| optimize::adamw(isa, &gradient, trained, &constants));
            close(&fast, &expected, 2e-6)?;
            let (fast, expected) = (optimize::square_sum(isa, &gradient).unwrap(), slow::square_sum(&gradient).unwrap());
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
            update(&[(&gradient, Trained { weight: &weight, first: &first, second: &second, average })]).unwrap();
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
        kernel in prop_oneof![Just(1usize), Just(3), Just(5)], skip in any::<bool>(), wide in any::<bool>(),
        stacked in 1..4usize, scale_shift in any::<bool>()
    ) {
        // Whole vectors of channels are not copied.
        let sizes = if wide { (16 * sizes.0, 16 * sizes.1) } else { sizes };
        let (groups, n) = if wide { (1, n.min(2)) } else { (groups, n) };
        let cin = groups * sizes.0;
        let cout = if skip { groups * sizes.1 } else { cin };
        let conditioning = if scale_shift { TimeConditioning::ScaleShift } else { TimeConditioning::Add };
        let (x, e) = (random(1, &[n, cin, side, side]), random(2, &[n, conditioning.width(cout)]));
        let shapes: [&[usize]; 10] = [
            &[cin], &[cin], &[cout, cin, kernel, kernel], &[cout], &[cout], &[cout],
            &[cout, cout, kernel, kernel], &[cout], &[cout, cin, 1, 1], &[cout],
        ];
        let p: Vec<_> = (3..).zip(shapes).map(|(seed, shape)| random(seed, shape)).collect();
        let block = crate::ResidualBlock {
            groups,
            eps: 1e-2,
            conditioning,
            norm1: (&p[0], &p[1]),
            conv1: (&p[2], &p[3]),
            norm2: (&p[4], &p[5]),
            conv2: (&p[6], &p[7]),
            skip: skip.then_some((&p[8], &p[9])),
        };
        let mut vars = vec![&x, &e];
        vars.extend(&p[..if skip { 10 } else { 8 }]);
        let expected = with_gradients(|| slow::residual_block(&x, &e, &block), &vars);
        for isa in available() {
            let fast = with_gradients(|| {
                let parts = x.chunk(stacked, 1)?;
                residual_block(isa, &parts, &e, &block)
            }, &vars);
            close(&fast, &expected, 2e-4)?;
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
        for isa in available() {
            close(&with_gradients(|| linear::linear(isa, &x, &weight, &bias), &vars), &expected, 2e-5)?;
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

/// Where the mean is far from 0 the sums of a normalisation lose digits, the kernels' no more than the definition's.
#[test]
fn normalisations_of_large_numbers_keep_their_digits() {
    let shape = [1, 16, 96, 96];
    let x = (random(1, &shape).as_tensor() + 300.0).unwrap();
    let (weight, bias) = (Tensor::ones(16, candle_core::DType::F32, x.device()).unwrap(), random(2, &[16]));
    let norm = norm_of(4, &weight, &bias);
    let double = |t: &Tensor| t.to_dtype(candle_core::DType::F64).unwrap();
    let exact =
        slow::group_norm(&double(&x), &GroupNorm { weight: &double(&weight), bias: &double(&bias), ..norm });
    let exact = exact.unwrap().to_dtype(candle_core::DType::F32).unwrap();
    for isa in available() {
        let fast = FeatureMap::with_kernels(isa, &x).unwrap().group_norm(&norm).unwrap().to_images().unwrap();
        close(&[fast], std::slice::from_ref(&exact), 1e-4).unwrap();
    }
}

#[test]
fn images_may_be_padded_on_two_sides_only() {
    let (x, weight) = (random(1, &[3, 5, 8, 8]), random(2, &[4, 5, 3, 3]));
    let padding = Padding { before: 0, after: 1 };
    let expected = with_gradients(|| slow::conv2d(&x, &weight, None, 2, padding), &[&x, &weight]);
    assert_eq!(expected[0].dims(), [3, 4, 4, 4]);
    for isa in available() {
        let fast = with_gradients(|| conv2d(isa, &x, &weight, None, 2, padding), &[&x, &weight]);
        close(&fast, &expected, 1e-5).unwrap();
    }
}

#[test]
fn stacked_maps_and_their_gradients_are_those_of_the_definition() {
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

/// Sums of 576 products of numbers in (−1, 1), by Winograd's method; `--nocapture` shows the errors, in proportion to the
/// largest result.
#[test]
fn three_by_three_convolutions_err_by_less_than_3e_6_of_the_largest_result() {
    let (x, weight, bias) = (random(1, &[2, 64, 14, 14]), random(2, &[64, 64, 3, 3]), random(3, &[64]));
    let direct = direct::convolution([&x, &weight, &bias], false, 2, [[64, 14, 14]; 2], [3, 1, 1]);
    let worst = |run: &dyn Fn() -> candle_core::Result<Tensor>| -> Vec<f32> {
        let found = with_gradients(run, &[&x, &weight, &bias]);
        let largest = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        found.iter().zip(&direct).map(|(a, b)| largest(&(a - b).unwrap()) / largest(b)).collect()
    };
    println!("plain sums: {:?}", worst(&|| slow::conv2d(&x, &weight, Some(&bias), 1, 1)));
    for isa in available() {
        let errors = worst(&|| conv2d(isa, &x, &weight, Some(&bias), 1, 1));
        println!("{isa:?}: {errors:?}");
        assert!(errors.iter().all(|error| *error < 3e-6), "{isa:?}: {errors:?}");
    }
}

#[test]
fn arguments_need_not_be_contiguous() {
    let x = random(1, &[2, 7, 5, 3]);
    let weight = random(2, &[3, 3, 3, 4]);
    let (x_t, weight_t) = (x.transpose(1, 3).unwrap(), weight.transpose(0, 3).unwrap());
    let fast = with_gradients(|| crate::conv2d(&x_t, &weight_t, None, 1, 1), &[&x, &weight]);
    let expected = with_gradients(|| slow::conv2d(&x_t, &weight_t.contiguous()?, None, 1, 1), &[&x, &weight]);
    close(&fast, &expected, 1e-5).unwrap();
    let fast = with_gradients(|| crate::silu(&x_t), &[&x]);
    close(&fast, &with_gradients(|| slow::silu(&x_t), &[&x]), 1e-5).unwrap();
}

#[test]
fn other_types_take_the_definition() {
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
        crate::conv_transpose2d(&x, &weight.transpose(0, 1).unwrap().contiguous().unwrap(), None, 2, 1)
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
