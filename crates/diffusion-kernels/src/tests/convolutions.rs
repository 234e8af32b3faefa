//! Convolutions against direct sums in f64 and against their definition.

use candle_core::{Tensor, Var};
use proptest::prelude::*;

use super::{
    all_kernels, bits, close, close_for, conv_transpose2d, conv2d, direct, random, relative_error,
    with_gradients,
};
use crate::arith::isa::available;
use crate::image::winograd;
use crate::{Padding, Precision, slow};

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
    (sizes, kernel, any::<bool>()).prop_map(
        |((n, cin, cout, h, w), (kernel, stride, padding), bias)| Case {
            n,
            cin,
            cout,
            h,
            w,
            kernel,
            stride,
            padding,
            bias,
        },
    )
}

/// Weights (Cout, Cin) are those of a kernel of one pixel.
#[test]
fn weights_without_a_kernel_are_pointwise() -> candle_core::Result<()> {
    let (x, weight, bias) = (random(1, &[3, 20, 5, 4]), random(2, &[7, 20]), random(3, &[7]));
    let square = Var::from_tensor(&weight.reshape((7, 20, 1, 1))?)?;
    for by_kernels in [true, false] {
        let op = |weight: &Tensor| {
            if by_kernels {
                crate::conv2d(&x, weight, Some(&bias), 1, 0)
            } else {
                slow::conv2d(&x, weight, Some(&bias), 1, 0)
            }
        };
        let gradient = |weight: &Var| -> candle_core::Result<Tensor> {
            let store = op(weight)?.sqr()?.sum_all()?.backward()?;
            store.get(weight).expect("a gradient").flatten_all()
        };
        assert_eq!(bits(&op(&weight)?), bits(&op(&square)?));
        assert_eq!(bits(&gradient(&weight)?), bits(&gradient(&square)?));
    }
    Ok(())
}

/// Convolutions that use Winograd's method, with all kinds of partial edge tiles.
fn winograd_case() -> impl Strategy<Value = Case> {
    (1..4usize, 32..70usize, 32..70usize, 6..21usize, 6..21usize, any::<bool>())
        .prop_filter("enough work", |(_, cin, cout, h, w, _)| winograd::pays(*cin, *cout, h * w))
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

/// Convolutions with as many channels as all threads share, with and without cut-off edge tiles.
fn wide_case() -> impl Strategy<Value = Case> {
    (1..6usize, 4..9usize, 6..9usize, 4..14usize, 4..14usize, any::<bool>())
        .prop_map(|(n, cin, cout, h, w, bias)| Case {
            n,
            cin: 16 * cin,
            cout: 16 * (18 - cout),
            h,
            w,
            kernel: 3,
            stride: 1,
            padding: 1,
            bias,
        })
        .prop_filter("a wide layer", |c| winograd::is_wide(c.cin, c.cout))
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
    for isa in all_kernels() {
        let fast = with_gradients(|| conv2d(isa, &x, &weight, b, c.stride, c.padding), vars);
        close_for(isa, &fast, &direct, 5e-5)?;
    }
    let slow = || slow::conv2d(&x, &weight, b, c.stride, c.padding);
    close(&with_gradients(slow, vars), &direct, 2e-5)?;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn convolution_by_winograds_method_agrees_with_the_definition(c in winograd_case()) {
        convolution_agrees(c)?;
    }

    #[test]
    fn a_wide_convolution_agrees_with_the_definition(c in wide_case()) {
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
        for isa in all_kernels() {
            let fast =
                with_gradients(|| conv_transpose2d(isa, &x, &weight, b, c.stride, c.padding), vars);
            close_for(isa, &fast, &direct, 5e-5)?;
        }
        let slow = || slow::conv_transpose2d(&x, &weight, b, c.stride, c.padding);
        close(&with_gradients(slow, vars), &direct, 2e-5)?;
    }
}

#[test]
fn images_may_be_padded_on_two_sides_only() {
    let (x, weight) = (random(1, &[3, 5, 8, 8]), random(2, &[4, 5, 3, 3]));
    let padding = Padding { before: 0, after: 1 };
    let expected = with_gradients(|| slow::conv2d(&x, &weight, None, 2, padding), &[&x, &weight]);
    assert_eq!(expected[0].dims(), [3, 4, 4, 4]);
    for isa in all_kernels() {
        let fast = with_gradients(|| conv2d(isa, &x, &weight, None, 2, padding), &[&x, &weight]);
        close_for(isa, &fast, &expected, 1e-5).unwrap();
    }
}

/// Winograd's method on sums of 576 products of numbers in (−1, 1). `--nocapture` prints the
/// errors, relative to the largest result.
#[test]
fn three_by_three_convolutions_err_by_less_than_3e_6_of_the_largest_result() {
    let (x, weight, bias) =
        (random(1, &[2, 64, 14, 14]), random(2, &[64, 64, 3, 3]), random(3, &[64]));
    let direct = direct::convolution([&x, &weight, &bias], false, 2, [[64, 14, 14]; 2], [3, 1, 1]);
    let worst = |run: &dyn Fn() -> candle_core::Result<Tensor>| -> Vec<f32> {
        let results = with_gradients(run, &[&x, &weight, &bias]);
        let largest = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        results.iter().zip(&direct).map(|(a, b)| largest(&(a - b).unwrap()) / largest(b)).collect()
    };
    println!("plain sums: {:?}", worst(&|| slow::conv2d(&x, &weight, Some(&bias), 1, 1)));
    for isa in available() {
        let errors = worst(&|| conv2d(isa, &x, &weight, Some(&bias), 1, 1));
        println!("{isa:?}: {errors:?}");
        assert!(errors.iter().all(|error| *error < 3e-6), "{isa:?}: {errors:?}");
    }
}

/// The errors of bf16 by layer: of the result, and of the gradients of x and of the weights.
/// `--nocapture` prints them.
#[test]
fn convolutions_in_bf16_err_by_less_than_two_percent() {
    let isa = available()[0].in_precision(Precision::Bf16);
    for (channels, outputs, side, kernel, stride) in
        [(64, 64, 14, 3, 1), (128, 128, 16, 3, 1), (64, 64, 14, 3, 2), (64, 64, 14, 1, 1)]
    {
        let x = random(1, &[4, channels, side, side]);
        let weight = random(2, &[outputs, channels, kernel, kernel]);
        let run = |isa| {
            with_gradients(|| conv2d(isa, &x, &weight, None, stride, kernel / 2), &[&x, &weight])
        };
        let (exact, rounded) = (run(available()[0]), run(isa));
        let errors: Vec<f32> =
            rounded.iter().zip(&exact).map(|(a, b)| relative_error(a, b)).collect();
        println!("{kernel}×{kernel} /{stride}, {channels} to {outputs}: {errors:?}");
        assert!(errors.iter().all(|error| *error < 2e-2), "{errors:?}");
    }
}
