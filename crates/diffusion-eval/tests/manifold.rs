//! Tests of precision, recall, density and coverage against their definitions.

use candle_core::{Device, Tensor};
use diffusion_eval::{Agreement, Manifold};
use diffusion_process::{Domain, NoiseSource};

/// `count` normal points of `width` numbers, shifted and scaled.
fn points(seed: u64, count: u64, width: usize, scale: f64, shift: f64) -> Tensor {
    let normal = NoiseSource::new(seed)
        .normal(Domain::Initial, 0, 0..count, &[width], &Device::Cpu)
        .unwrap();
    normal.affine(scale, shift).unwrap()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// The metrics by their definitions, from each pair of points.
fn by_definition(real: &Tensor, generated: &Tensor, k: usize) -> Agreement {
    let rows = |t: &Tensor| t.to_dtype(candle_core::DType::F64).unwrap().to_vec2::<f64>().unwrap();
    let (real, generated) = (rows(real), rows(generated));
    let radius = |all: &[Vec<f64>], i: usize| {
        let mut others: Vec<f64> =
            (0..all.len()).filter(|j| *j != i).map(|j| distance(&all[i], &all[j])).collect();
        others.sort_by(f64::total_cmp);
        others[k - 1]
    };
    let real_radii: Vec<f64> = (0..real.len()).map(|i| radius(&real, i)).collect();
    let generated_radii: Vec<f64> = (0..generated.len()).map(|i| radius(&generated, i)).collect();
    let in_real = |i: usize, j: usize| distance(&real[i], &generated[j]) < real_radii[i];
    let share = |count: usize, all: usize| count as f64 / all as f64;
    let (reals, all) = (0..real.len(), 0..generated.len());
    Agreement {
        precision: share(
            all.clone().filter(|&j| reals.clone().any(|i| in_real(i, j))).count(),
            generated.len(),
        ),
        recall: share(
            reals
                .clone()
                .filter(|&i| {
                    all.clone().any(|j| distance(&real[i], &generated[j]) < generated_radii[j])
                })
                .count(),
            real.len(),
        ),
        density: share(
            all.clone().map(|j| reals.clone().filter(|&i| in_real(i, j)).count()).sum(),
            k * generated.len(),
        ),
        coverage: share(
            reals.clone().filter(|&i| all.clone().any(|j| in_real(i, j))).count(),
            real.len(),
        ),
    }
}

#[test]
fn metrics_equal_their_definitions() {
    for (k, width, count) in [(1, 2, 40), (3, 5, 120), (5, 16, 60)] {
        let (real, generated) = (points(1, 90, width, 1.0, 0.0), points(2, count, width, 0.8, 0.4));
        let found = Manifold::new(&real, k)
            .unwrap()
            .agreement(&Manifold::new(&generated, k).unwrap())
            .unwrap();
        assert_eq!(found, by_definition(&real, &generated, k), "k {k}, {width} features");
    }
}

#[test]
fn more_points_than_one_block_are_compared() {
    let real = points(1, 1100, 3, 1.0, 0.0);
    let generated = points(2, 1030, 3, 1.0, 0.0);
    let manifold = Manifold::new(&real, 5).unwrap();
    let agreement = manifold.agreement(&Manifold::new(&generated, 5).unwrap()).unwrap();
    // For points of the same distribution, the expected density is 1 (Naeem et al. 2020, section
    // 3.3).
    assert!((agreement.density - 1.0).abs() < 0.05, "{agreement:?}");
    // The probability to be covered is 1 − Π (N − i)/(N + M − i) over i = 0 … k, about 1 − 1/2^k
    // for N = M.
    assert!((agreement.coverage - (1.0 - 0.5f64.powi(5))).abs() < 0.03, "{agreement:?}");
}

#[test]
fn quality_and_diversity_are_measured_separately() {
    let real = Manifold::new(&points(1, 400, 4, 1.0, 0.0), 3).unwrap();
    let agreement = |generated| real.agreement(&Manifold::new(&generated, 3).unwrap()).unwrap();
    // Narrow points have high precision and low recall; wide points the opposite.
    let (narrow, wide) =
        (agreement(points(2, 400, 4, 0.1, 0.0)), agreement(points(2, 400, 4, 4.0, 0.0)));
    assert!(narrow.precision > 0.95 && narrow.recall < 0.1 && narrow.coverage < 0.3, "{narrow:?}");
    assert!(wide.precision < 0.4 && wide.recall > 0.9, "{wide:?}");
    let elsewhere = agreement(points(2, 400, 4, 1.0, 100.0));
    assert_eq!(
        [elsewhere.precision, elsewhere.recall, elsewhere.density, elsewhere.coverage],
        [0.0; 4]
    );
}

#[test]
fn too_few_points_and_bad_values_are_errors() {
    let of = |features: &Tensor, k| Manifold::new(features, k).map(|_| ()).unwrap_err().to_string();
    assert!(of(&points(1, 3, 2, 1.0, 0.0), 3).contains("3 rows"));
    assert!(of(&points(1, 3, 2, 1.0, 0.0), 0).contains("0 neighbours"));
    assert!(of(&points(1, 3, 2, f64::NAN, 0.0), 1).contains("feature 0 of row 0"));
    let (two, three) = (points(1, 5, 2, 1.0, 0.0), points(1, 5, 3, 1.0, 0.0));
    let error =
        Manifold::new(&two, 1).unwrap().agreement(&Manifold::new(&three, 1).unwrap()).unwrap_err();
    assert!(error.to_string().contains("2 features, the other 3"));
}

#[test]
fn equal_points_reach_each_other() {
    let device = Device::Cpu;
    let one = points(3, 1, 64, 100.0, 7.0);
    let equal = one.repeat((40, 1)).unwrap();
    // 30 points, 12 of which are the first one.
    let some =
        Tensor::cat(&[points(4, 18, 64, 1.0, 0.0), one.repeat((12, 1)).unwrap()], 0).unwrap();
    for features in [&equal, &some] {
        let manifold = Manifold::new(features, 5).unwrap();
        let Agreement { precision, recall, density, coverage } =
            manifold.agreement(&manifold).unwrap();
        assert_eq!([precision, recall, coverage], [1.0; 3], "a set against itself");
        assert!(density >= 1.0, "{density}");
    }
    // Without equal points, the density of a set against itself is exactly 1.
    let manifold = Manifold::new(&points(5, 50, 8, 1.0, 0.0), 5).unwrap();
    assert_eq!(manifold.agreement(&manifold).unwrap().density, 1.0);
    let other =
        Manifold::new(&Tensor::zeros((9, 64), candle_core::DType::F32, &device).unwrap(), 5);
    let apart = Manifold::new(&equal, 5).unwrap().agreement(&other.unwrap()).unwrap();
    assert_eq!([apart.precision, apart.recall, apart.coverage], [0.0; 3]);
}
