//! The formulas of the variational bound against values computed by hand.

use candle_core::{Device, Tensor};
use diffusion_process::{discretized_log_likelihood, discretized_log_probability, gaussian_kl};

fn number(value: f64) -> Tensor {
    Tensor::new(&[[[[value]]]], &Device::Cpu).unwrap()
}

fn flat(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_kl_divergence_of_gaussians_has_its_closed_form() {
    let kl = |m1, v1, m2, v2| {
        flat(&gaussian_kl(&number(m1), &number(v1), &number(m2), &number(v2)).unwrap())[0]
    };
    assert_eq!(kl(0.3, -2.0, 0.3, -2.0), 0.0);
    // By hand: ½·(1 − 0 + e⁻¹ + e⁻¹ − 1), and a pure shift.
    assert!((kl(0.0, 0.0, 1.0, 1.0) - (-1f64).exp()).abs() < 1e-14);
    assert!((kl(2.0, 0.0, 0.0, 0.0) - 2.0).abs() < 1e-14);
}

#[test]
fn the_probabilities_of_all_256_bins_add_up_to_1() {
    let bins: Vec<f64> = (0..256).map(|k| f64::from(k) / 127.5 - 1.0).collect();
    let x = Tensor::from_vec(bins, (256, 1, 1, 1), &Device::Cpu).unwrap();
    for (mean, deviation) in [(0.0, 0.1), (0.9, 0.3), (-1.0, 0.02), (0.3, 5.0)] {
        let mean = Tensor::full(mean, x.shape(), &Device::Cpu).unwrap();
        let log_deviation = number(f64::ln(deviation));
        let log = discretized_log_likelihood(&x, &mean, &log_deviation).unwrap();
        let total: f64 = flat(&log).iter().map(|log| log.exp()).sum();
        assert!((total - 1.0).abs() < 1e-9, "deviation {deviation}: {total}");
    }
    // One bin of a wide normal: its density times the bin's width 2/255.
    let log = discretized_log_likelihood(&number(0.0), &number(0.5), &number(0.0)).unwrap();
    let density = (-0.125f64).exp() / (2.0 * std::f64::consts::PI).sqrt();
    assert!((flat(&log)[0].exp() / (density * 2.0 / 255.0) - 1.0).abs() < 1e-4);
}

#[test]
fn exact_and_training_probability_agree_above_the_lower_limit() {
    for (x, mean, deviation) in [(-1.0, -0.9, 0.05), (0.5 / 127.5, 0.01, 0.02), (1.0, 0.7, 0.4)] {
        let training =
            discretized_log_likelihood(&number(x), &number(mean), &number(f64::ln(deviation)))
                .unwrap();
        let exact = discretized_log_probability(x, mean, deviation);
        assert!((flat(&training)[0] - exact).abs() < 1e-9, "{x} {mean} {deviation}: {exact}");
    }
    // Far away, the training version has its lower limit; the exact one keeps falling.
    let training =
        discretized_log_likelihood(&number(1.0), &number(-1.0), &number(f64::ln(0.01))).unwrap();
    assert!((flat(&training)[0] - f64::ln(1e-12)).abs() < 1e-9);
    assert!(discretized_log_probability(1.0, -1.0, 0.01) < -10_000.0);
}
