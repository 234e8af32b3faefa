//! Tests of the variational bound against closed forms.

use std::f64::consts::{LN_2, PI};
use std::ops::ControlFlow;

use candle_core::{Device, Result, Tensor};
use diffusion_eval::{
    Estimate, ModelErrors, ModelEvaluation, Predictor, PredictorEvaluation, VariationalBound,
};
use diffusion_process::{
    Denoiser, Domain, Levels, NoiseLevel, NoiseSource, Prediction, discretized_log_probability,
};
use diffusion_schedule::{BetaSchedule, NoiseSchedule, ScheduleConfig, VarianceType};
use proptest::prelude::*;

use VarianceType::{FixedLarge, FixedSmall, LearnedRange};

/// The standard deviation of the Gaussian data.
const DEVIATION: f64 = 0.2;

fn schedule(steps: usize) -> NoiseSchedule {
    let beta_schedule = BetaSchedule::Cosine;
    ScheduleConfig { num_train_timesteps: steps, beta_schedule, ..Default::default() }
        .build()
        .unwrap()
}

/// Images (N, 1, 16, 16) whose pixels are independent and normal, rounded to 256 grey levels.
fn gaussian_images(count: u64) -> Tensor {
    let normal = NoiseSource::new(9)
        .normal(Domain::Initial, 0, 0..count, &[1, 16, 16], &Device::Cpu)
        .unwrap();
    let levels = normal.affine(DEVIATION * 127.5, 127.5).unwrap().round().unwrap();
    levels.clamp(0f32, 255f32).unwrap().affine(1.0 / 127.5, -1.0).unwrap()
}

/// Images with all pixels near 0: none of the 256 grey levels is exactly 0.
fn grey_images(count: usize) -> Tensor {
    Tensor::full((127.0f32 / 127.5) - 1.0, (count, 1, 4, 4), &Device::Cpu).unwrap()
}

/// E[x₀ | x_t] of the Gaussian data, plus `off`.
fn best(off: f64) -> impl Fn(&Tensor, NoiseLevel) -> Result<Prediction> {
    move |x_t, level| {
        let (signal, noise) = (level.signal, level.noise);
        let data = DEVIATION * DEVIATION;
        let factor = signal * data / (signal * signal * data + noise * noise);
        let levels = Levels::new(&vec![level; x_t.dim(0)?], x_t)?;
        Prediction::from_x0(&x_t.affine(factor, off)?, x_t, &levels)
    }
}

/// A model that predicts `value` for every pixel and the learned variance `variance`.
fn constant_model(
    value: f64,
    variance: Option<f64>,
) -> impl Fn(&Tensor, NoiseLevel) -> Result<Prediction> {
    move |x_t, level| {
        let levels = Levels::new(&vec![level; x_t.dim(0)?], x_t)?;
        let constant = |value: f64| x_t.zeros_like()?.affine(0.0, value);
        let variance = variance.map(constant).transpose()?;
        Ok(Prediction { variance, ..Prediction::from_x0(&constant(value)?, x_t, &levels)? })
    }
}

fn errors(evaluation: &ModelEvaluation<'_>, model: &dyn Denoiser) -> ModelErrors {
    evaluation.errors(model, &mut |_, _| ControlFlow::Continue(())).unwrap().unwrap()
}

fn near(estimate: Estimate, expected: f64) -> bool {
    (estimate.mean - expected).abs() <= 4.0 * estimate.standard_error
}

fn normal_density(x: f64, deviation: f64) -> f64 {
    (-0.5 * (x / deviation).powi(2)).exp() / (deviation * (2.0 * PI).sqrt())
}

/// The integral of `of` over `from`…`to`, by Simpson's rule.
fn integral(from: f64, to: f64, of: impl Fn(f64) -> f64) -> f64 {
    let parts = 4000;
    let width = (to - from) / f64::from(parts);
    let at = |i: i32| of(from + f64::from(i) * width) * f64::from(if i % 2 == 1 { 4 } else { 2 });
    let inner: f64 = (1..parts).map(at).sum();
    (of(from) + of(to) + inner) * width / 3.0
}

/// The probability of the bin around 0 of a normal variable, by integration of its density.
fn bin_probability(mean: f64, deviation: f64) -> f64 {
    let width = 2.0 / 255.0 / 8.0;
    let middle = |i: i32| (f64::from(i) - 3.5) * width;
    // Eight parts with Simpson's rule each: the density is smooth at this scale.
    (0..8)
        .map(|i| {
            let at = |x: f64| normal_density(x - mean, deviation);
            let (m, h) = (middle(i), width / 2.0);
            (at(m - h) + 4.0 * at(m) + at(m + h)) * width / 6.0
        })
        .sum()
}

#[test]
fn the_best_model_of_gaussian_data_has_the_bound_of_the_closed_form() {
    let images = gaussian_images(64);
    let schedule = schedule(100);
    let data = DEVIATION * DEVIATION;
    // The variance of x₀ given x_t.
    let unknown = |t: usize| {
        let signal = schedule.alphas_cumprod()[t];
        data * (1.0 - signal) / (signal * data + 1.0 - signal)
    };
    // Both are written with α and ᾱ, as in the papers.
    let step = |t: usize, variance: f64| {
        let (signal, before) = (schedule.alphas_cumprod()[t], schedule.alphas_cumprod()[t - 1]);
        let beta = 1.0 - signal / before;
        let posterior = beta * (1.0 - before) / (1.0 - signal);
        let distance = before * beta * beta / (1.0 - signal).powi(2) * unknown(t);
        0.5 * ((variance / posterior).ln() + (posterior + distance) / variance - 1.0)
    };
    let posterior = |t: usize| {
        let (signal, before) = (schedule.alphas_cumprod()[t], schedule.alphas_cumprod()[t - 1]);
        (1.0 - signal / before) * (1.0 - before) / (1.0 - signal)
    };
    let decoder = {
        let (spread, deviation) = (unknown(0).sqrt(), posterior(1).sqrt());
        let of = |off: f64| {
            -bin_probability(off, deviation).max(1e-300).ln() * normal_density(off, spread)
        };
        integral(-9.0 * spread, 9.0 * spread, of)
    };
    let last = schedule.alphas_cumprod()[99];
    let prior = 0.5 * (last * data - last - (1.0 - last).ln());
    let entropy = (127.5 * DEVIATION * (2.0 * PI * std::f64::consts::E).sqrt()).log2();
    for variance in [FixedSmall, FixedLarge] {
        let of = |t: usize| match variance {
            FixedLarge => step(t, schedule.betas()[t]),
            _ => step(t, posterior(t)),
        };
        let steps: f64 = (1..100).map(of).sum();
        for looks in [2, 25] {
            let bound = VariationalBound::new(&schedule, variance);
            let evaluation = ModelEvaluation::of_bound(&images, bound, 4, looks, 0).unwrap();
            let errors = errors(&evaluation, &best(0.0));
            let bound = errors.bound.unwrap();
            assert!(near(bound.prior, prior / LN_2), "{bound:?} {}", prior / LN_2);
            assert!(near(bound.steps, steps / LN_2), "{bound:?} {}", steps / LN_2);
            assert!(near(bound.decoder, decoder / LN_2), "{bound:?} {}", decoder / LN_2);
            let least = entropy - 4.0 * bound.total.standard_error;
            assert!(bound.total.mean > least, "{bound:?} {entropy}");
            assert!(looks < 25 || bound.total.mean < entropy + 1.0, "{bound:?} {entropy}");
            // The bins and the prior sum to the total.
            let rows: f64 = errors.bins.iter().map(|bin| bin.bits.unwrap().mean).sum();
            assert!((rows + bound.prior.mean - bound.total.mean).abs() < 1e-9);
            let expected = (0..100).map(unknown).sum::<f64>() / 100.0;
            assert!(near(errors.overall.x0, expected), "{errors:?} {expected}");
        }
    }
}

#[test]
fn a_constant_error_has_a_known_bound_for_any_looks() {
    let (images, off) = (grey_images(3), 0.03);
    let truth = f64::from(127.0f32 / 127.5 - 1.0);
    let schedule = schedule(50);
    let expected: f64 = (1..50)
        .map(|t| {
            (off * schedule.posterior(t).coef_x0).powi(2)
                / (2.0 * schedule.posterior(t).variance)
                / LN_2
        })
        .sum();
    let bound = VariationalBound::new(&schedule, FixedSmall);
    let model = constant_model(truth + off, None);
    let all = errors(&ModelEvaluation::of_bound(&images, bound, 1, 50, 0).unwrap(), &model);
    let bound_of_all = all.bound.unwrap();
    assert!(
        (bound_of_all.steps.mean / expected - 1.0).abs() < 1e-4
            && bound_of_all.steps.standard_error < 1e-9,
        "{bound_of_all:?}"
    );
    let decoder = -bin_probability(off, schedule.posterior(1).variance.sqrt()).ln() / LN_2;
    assert!((bound_of_all.decoder.mean / decoder - 1.0).abs() < 1e-4, "{bound_of_all:?} {decoder}");
    // v̂ − v = −(x̂₀ − x₀)/√(1 − ᾱ), ε̂ − ε = −√ᾱ·(x̂₀ − x₀)/√(1 − ᾱ).
    for (bin, t) in errors(&ModelEvaluation::of_bound(&images, bound, 50, 1, 0).unwrap(), &model)
        .bins
        .iter()
        .zip(0..)
    {
        let level = schedule.level(t);
        let velocity = (off / level.noise).powi(2);
        assert!((bin.loss.velocity.mean / velocity - 1.0).abs() < 1e-2, "{bin:?} {velocity}");
        let noise = velocity * level.signal.powi(2);
        assert!(
            (bin.loss.noise.mean / noise - 1.0).abs() < 1e-2 || noise < 1e-4,
            "{bin:?} {noise}"
        );
    }
    // With few looks, the mean is unbiased and the standard error covers the difference.
    let many = grey_images(400);
    let few =
        errors(&ModelEvaluation::of_bound(&many, bound, 2, 3, 1).unwrap(), &model).bound.unwrap();
    assert!(few.steps.standard_error > 0.0 && few.steps.standard_error < 0.1 * expected);
    assert!(near(few.steps, expected), "{few:?} {expected}");
}

#[test]
fn the_prior_is_the_kl_divergence_of_two_normal_distributions() {
    // ᾱ_T = 0.9·0.8; KL(N(√0.72·x, 0.28) ‖ N(0, 1)) for x = −1 and 0.5, integrated numerically.
    let schedule = NoiseSchedule::from_betas(vec![0.1, 0.2]).unwrap();
    let bound = VariationalBound::new(&schedule, FixedSmall);
    let (signal, deviation) = (0.72f64.sqrt(), 0.28f64.sqrt());
    let of = |x0: f64| {
        let density = |x: f64| normal_density(x - signal * x0, deviation);
        let at = |x: f64| density(x) * (density(x) / normal_density(x, 1.0)).ln();
        integral(signal * x0 - 8.0 * deviation, signal * x0 + 8.0 * deviation, at)
    };
    let expected = f64::midpoint(of(-1.0), of(0.5)) / LN_2;
    let prior = bound.prior(&Tensor::new(&[[[[-1f32, 0.5]]]], &Device::Cpu).unwrap()).unwrap()[0];
    assert!((prior - expected).abs() < 1e-9, "{prior} {expected}");
    assert!((prior - 0.723_487).abs() < 1e-6, "{prior}");
}

#[test]
fn a_better_variance_is_a_better_bound() {
    // At its ends the learned variance is one of the fixed ones.
    let (images, schedule) = (gaussian_images(8), schedule(20));
    let of = |variance, learned| {
        let bound = VariationalBound::new(&schedule, variance);
        let evaluation = ModelEvaluation::of_bound(&images, bound, 1, 20, 0).unwrap();
        let model = |x_t: &Tensor, level: NoiseLevel| {
            let constant = |value: f64| x_t.zeros_like()?.affine(0.0, value);
            let variance = Option::map(learned, constant).transpose()?;
            Ok(Prediction { variance, ..best(0.0)(x_t, level)? })
        };
        errors(&evaluation, &model).bound.unwrap()
    };
    let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
    assert!(near(of(LearnedRange, Some(-1.0)).total.mean, of(FixedSmall, None).total.mean));
    assert!(near(of(LearnedRange, Some(1.0)).steps.mean, of(FixedLarge, None).steps.mean));
    // The right variance is between the ends: β̃ plus the part from the unknown x₀.
    let ends = of(FixedSmall, None).steps.mean.min(of(FixedLarge, None).steps.mean);
    let between = (-9..10).map(|v| of(LearnedRange, Some(f64::from(v) / 10.0)).steps.mean);
    assert!(between.fold(f64::INFINITY, f64::min) < ends);
    let bound = VariationalBound::new(&schedule, LearnedRange);
    let evaluation = ModelEvaluation::of_bound(&images, bound, 1, 1, 0).unwrap();
    let error = evaluation.errors(&best(0.0), &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains("has not learned a variance"), "{error}");
}

#[test]
fn a_worse_model_never_has_a_smaller_bound() {
    let (images, schedule) = (gaussian_images(32), schedule(50));
    for variance in [FixedSmall, FixedLarge] {
        let bound = VariationalBound::new(&schedule, variance);
        let evaluation = ModelEvaluation::of_bound(&images, bound, 2, 5, 3).unwrap();
        let totals: Vec<f64> = [0.0, 0.02, 0.05, 0.1, 0.3]
            .map(|off| errors(&evaluation, &best(off)).bound.unwrap().total.mean)
            .to_vec();
        assert!(totals.is_sorted() && totals[4] > totals[0] + 1.0, "{totals:?}");
    }
}

proptest! {
    #[test]
    fn the_decoders_probabilities_sum_to_1(mean in -3.0f64..3.0, log_deviation in -8.0f64..2.0) {
        let deviation = log_deviation.exp();
        let sum: f64 = (0..256)
            .map(|k| discretized_log_probability(f64::from(k) / 127.5 - 1.0, mean, deviation).exp())
            .sum();
        prop_assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn the_decoder_is_finite_and_falls_with_distance(
        k in 0u8..=255, far in 0.0f64..1e6, further in 0.0f64..10.0, log_deviation in -8.0f64..2.0,
    ) {
        let (x, deviation) = (f64::from(k) / 127.5 - 1.0, log_deviation.exp());
        for side in [-1.0, 1.0] {
            let near = discretized_log_probability(x, x + side * far, deviation);
            let farther = discretized_log_probability(x, x + side * (far + further), deviation);
            prop_assert!(
                near.is_finite() && near <= 1e-12 && farther.is_finite(),
                "{near} {farther}"
            );
            let open = (k == 0 && side < 0.0) || (k == 255 && side > 0.0);
            let rounding = 1e-9 * (1.0 + near.abs());
            prop_assert!(
                if open { farther >= near - rounding } else { farther <= near + rounding },
                "{near} {farther}"
            );
        }
    }
}

#[test]
fn the_decoders_tails_are_smooth() {
    // ln Φ is computed by a series below −30 standard deviations. The log-probability of the bin
    // must be smooth there: its second differences are near −1.
    let h = 1.0 / 255.0;
    let of = |z: f64| discretized_log_probability(-1.0, -1.0 + h + z, 1.0);
    // The first bin reaches up to −1 + h, z standard deviations below the mean.
    for z in [5.0, 29.99, 29.999_9, 30.0, 30.000_1, 36.0] {
        let second = (of(z + 0.01) - 2.0 * of(z) + of(z - 0.01)) / 1e-4;
        assert!((second + 1.0).abs() < 0.05, "{z}: {second}");
    }
    // ln Φ(−10), −30 and −40 to 12 digits (mpmath).
    for (z, expected) in
        [(10.0, -53.231_285_151_2), (30.0, -454.321_243_956_3), (40.0, -804.608_442_013_8)]
    {
        assert!((of(z) - expected).abs() < 1e-8, "{z}: {}", of(z));
    }
}

#[test]
fn results_do_not_depend_on_batches_and_losses_equal_those_of_predictors() {
    let (images, schedule) = (gaussian_images(10), schedule(40));
    let bound = VariationalBound::new(&schedule, FixedSmall);
    let evaluation = ModelEvaluation::of_bound(&images, bound, 4, 3, 5).unwrap();
    let model = best(0.05);
    let together = errors(&evaluation, &model);
    for batch in [1, 3] {
        assert_eq!(errors(&evaluation.clone().in_batches_of(batch), &model), together);
    }
    let alone = std::thread::scope(|scope| {
        let of = || scope.spawn(|| errors(&evaluation, &best(0.05)));
        [of(), of()].map(|thread| thread.join().unwrap())
    });
    assert!(alone.iter().all(|errors| *errors == together));

    // With all levels evaluated, both evaluations use the same noise.
    let levels: Vec<NoiseLevel> = (0..8).map(|t| schedule.level(5 * t)).collect();
    let losses = ModelEvaluation::of_levels(&images, levels.clone(), 1, 8, 5).unwrap();
    let losses = errors(&losses, &model);
    assert!(losses.bound.is_none() && losses.bins[0].bits.is_none());
    let predictors = PredictorEvaluation::new(&images, levels, 1, 5).unwrap();
    let noise = predictors.errors(&Predictor::Model(&model)).unwrap().overall.noise;
    assert!((losses.overall.noise.mean / noise.mean - 1.0).abs() < 1e-5, "{losses:?} {noise:?}");
}

#[test]
fn invalid_input_is_an_error_and_an_evaluation_can_be_stopped() {
    let (images, schedule) = (grey_images(2), schedule(10));
    let bound = VariationalBound::new(&schedule, FixedSmall);
    assert!(ModelEvaluation::of_bound(&images, bound, 11, 1, 0).is_err());
    assert!(ModelEvaluation::of_bound(&images, bound, 1, 0, 0).is_err());
    let evaluation = ModelEvaluation::of_bound(&images, bound, 5, 9, 0).unwrap();
    let mut calls = Vec::new();
    let stopped = evaluation.errors(&constant_model(0.0, None), &mut |done, all| {
        calls.push((done, all));
        if done < 6 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(stopped.unwrap().is_none());
    assert_eq!(calls, [(2, 20), (4, 20), (6, 20)]);
    let broken = constant_model(f64::NAN, None);
    let error = evaluation.errors(&broken, &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
}
