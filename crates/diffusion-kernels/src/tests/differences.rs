//! The definitions' gradients against finite differences in f64. The kernels are compared with the
//! definitions elsewhere, so these tests tie both to the mathematics.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::{block_of, random};
use crate::{Activation, FeatureMap, GroupNorm, Padding, TimeConditioning, slow};

fn random_f64(seed: u64, shape: &[usize]) -> Var {
    Var::from_tensor(&random(seed, shape).to_dtype(DType::F64).unwrap()).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Compares each gradient of Σ cotangent · f with (f(x + h) − f(x − h)) / 2h, element by element.
fn check(name: &str, vars: &[&Var], f: &dyn Fn() -> Result<Tensor>) {
    const H: f64 = 1e-5;
    let cotangent = random_f64(99, f().unwrap().dims());
    let scalar = || (f().unwrap() * cotangent.as_tensor()).unwrap().sum_all().unwrap();
    let gradients = scalar().backward().unwrap();
    for (v, var) in vars.iter().enumerate() {
        let (gradient, values) = (numbers(gradients.get(var).expect("a gradient")), numbers(var));
        let scale = gradient.iter().fold(1f64, |m, x| m.max(x.abs()));
        for (i, gradient) in gradient.iter().enumerate() {
            let at = |x: f64| {
                let mut moved = values.clone();
                moved[i] = x;
                var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
                scalar().to_scalar::<f64>().unwrap()
            };
            let difference = (at(values[i] + H) - at(values[i] - H)) / (2.0 * H);
            at(values[i]);
            assert!(
                (difference - gradient).abs() < 1e-7 * scale,
                "{name}, variable {v}, element {i}: gradient {gradient}, difference {difference}"
            );
        }
    }
}

#[test]
fn gradients_of_convolutions_agree_with_finite_differences() {
    let (x, bias) = (random_f64(1, &[2, 3, 5, 5]), random_f64(2, &[2]));
    for (kernel, stride, padding) in [
        (3, 1, 1.into()),
        (3, 2, 1.into()),
        (1, 1, 0.into()),
        (3, 2, Padding { before: 0, after: 1 }),
    ] {
        let weight = random_f64(3, &[2, 3, kernel, kernel]);
        check("conv2d", &[&x, &weight, &bias], &|| {
            slow::conv2d(&x, &weight, Some(&bias), stride, padding)
        });
    }
    let weight = random_f64(3, &[3, 2, 4, 4]);
    let transposed = || slow::conv_transpose2d(&x, &weight, Some(&bias), 2, 1);
    check("conv_transpose2d", &[&x, &weight, &bias], &transposed);
}

#[test]
fn gradients_of_normalisations_agree_with_finite_differences() {
    let (x, weight, bias) =
        (random_f64(1, &[2, 4, 3, 2]), random_f64(2, &[4]), random_f64(3, &[4]));
    let modulation = random_f64(4, &[2, 8]);
    for activation in [Activation::Identity, Activation::Silu] {
        let norm = GroupNorm {
            groups: 2,
            eps: 1e-3,
            weight: &weight,
            bias: &bias,
            modulation: Some(&modulation),
            activation,
        };
        let vars = [&x, &weight, &bias, &modulation];
        check("group_norm", &vars, &|| slow::group_norm(&x, &norm));
    }
}

#[test]
fn gradients_of_attention_and_resampling_agree_with_finite_differences() {
    let [q, k, v] = [1, 2, 3].map(|seed| random_f64(seed, &[2, 4, 2, 3]));
    check("attention", &[&q, &k, &v], &|| slow::attention(&q, &k, &v, 2));
    let x = random_f64(4, &[2, 3, 4, 2]);
    check("upsample_nearest2", &[&x], &|| slow::upsample_nearest2(&x));
    check("avg_pool2", &[&x], &|| slow::avg_pool2(&x));
    let (weight, bias) = (random_f64(5, &[3, 6]), random_f64(6, &[3]));
    let rows = random_f64(7, &[4, 6]);
    check("linear", &[&rows, &weight, &bias], &|| slow::linear(&rows, &weight, &bias));
    check("silu", &[&rows], &|| slow::silu(&rows));
}

#[test]
fn gradients_of_residual_blocks_agree_with_finite_differences() {
    for conditioning in [TimeConditioning::Add, TimeConditioning::ScaleShift] {
        let (x, e) = (random_f64(1, &[2, 2, 3, 3]), random_f64(2, &[2, conditioning.width(4)]));
        let shapes: [&[usize]; 10] =
            [&[2], &[2], &[4, 2, 3, 3], &[4], &[4], &[4], &[4, 4, 3, 3], &[4], &[4, 2, 1, 1], &[4]];
        let p: Vec<Var> = (3..).zip(shapes).map(|(seed, shape)| random_f64(seed, shape)).collect();
        let block = block_of(2, conditioning, &p);
        let mut vars = vec![&x, &e];
        vars.extend(&p);
        check("residual_block", &vars, &|| {
            FeatureMap::from_images(&x)?.residual_block(&e, &block)?.to_images()
        });
    }
}
