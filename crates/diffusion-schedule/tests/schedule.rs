//! The schedules against the numbers of the papers, of the tutorial (Learn AI Series #84,
//! Generative Images – Diffusion Models, Part 1) and of closed forms.

use diffusion_schedule::{
    BetaSchedule, NoiseSchedule, SamplingPlan, ScheduleComparison, ScheduleConfig, ScheduleError,
    SigmaSpacing, TimestepSpacing, VarianceType,
};
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

fn linear(num_train_timesteps: usize) -> NoiseSchedule {
    ScheduleConfig { num_train_timesteps, ..Default::default() }.build().unwrap()
}

fn cosine() -> NoiseSchedule {
    ScheduleConfig { beta_schedule: BetaSchedule::Cosine, ..Default::default() }.build().unwrap()
}

#[test]
fn linear_alphas_cumprod_and_snr_have_the_known_values() {
    let s = linear(1000);
    for (t, alpha_cumprod, db) in [
        (0, 0.9999, 40.0),
        (100, 0.895_142, 9.313),
        (250, 0.521_423, 0.372),
        (500, 0.077_797, -10.739),
    ] {
        assert!(
            (s.alphas_cumprod()[t] - alpha_cumprod).abs() < 1e-6,
            "ᾱ at {t}: {}",
            s.alphas_cumprod()[t]
        );
        assert!((s.snr_db(t) - db).abs() < 1e-3, "dB at {t}: {}", s.snr_db(t));
    }
    assert!((s.terminal_snr_db() + 43.94).abs() < 0.01);
    assert_eq!(s.first_below_0_db(), Some(259));
}

#[test]
fn cosine_alphas_cumprod_and_snr_have_the_known_values() {
    let s = cosine();
    for (t, alpha_cumprod, db) in [
        (0, 0.999_959, 43.84),
        (100, 0.971_576, 15.338),
        (250, 0.845_888, 7.395),
        (500, 0.492_285, -0.134),
        (900, 0.023_616, -16.164),
    ] {
        assert!(
            (s.alphas_cumprod()[t] - alpha_cumprod).abs() < 1e-6,
            "ᾱ at {t}: {}",
            s.alphas_cumprod()[t]
        );
        assert!((s.snr_db(t) - db).abs() < 1e-2, "dB at {t}: {}", s.snr_db(t));
    }
    assert_eq!(s.first_below_0_db(), Some(496));
    assert!((s.terminal_snr_db() + 86.15).abs() < 0.01);
}

#[test]
fn the_tutorials_200_steps_stop_short_of_noise_and_the_scaled_ones_do_not() {
    let literal = linear(200);
    assert_eq!(literal.first_below_0_db(), Some(117));
    assert!((literal.alphas_cumprod()[199] - 0.132).abs() < 1e-3);
    assert!((literal.terminal_snr_db() + 8.2).abs() < 0.05);
    let scaled = ScheduleConfig::linear_scaled_to(200).build().unwrap();
    assert!(scaled.alphas_cumprod()[199] < 5e-5);
}

#[test]
fn errors_name_the_field_and_its_value() {
    let build = |edit: fn(&mut ScheduleConfig)| {
        let mut config = ScheduleConfig::default();
        edit(&mut config);
        config.build().unwrap_err().to_string()
    };
    assert!(build(|c| c.num_train_timesteps = 0).contains("num_train_timesteps is 0"));
    assert!(build(|c| c.num_train_timesteps = usize::MAX).contains("it must be at most 1000000"));
    assert!(build(|c| c.beta_start = 0.0).contains("beta_start is 0"));
    assert!(build(|c| c.beta_end = 1.0).contains("beta_end is 1"));
    assert!(build(|c| c.beta_end = f64::NAN).contains("beta_end is NaN"));
    assert!(build(|c| c.beta_start = -0.1).contains("beta_start is -0.1"));
    assert_eq!(
        NoiseSchedule::from_betas(vec![0.1, f64::INFINITY]),
        Err(ScheduleError::Beta { timestep: 1, value: f64::INFINITY })
    );
    assert_eq!(NoiseSchedule::from_betas(vec![]), Err(ScheduleError::NoTimesteps));
}

#[test]
fn zero_terminal_snr_keeps_the_first_step_and_removes_the_signal_of_the_last() {
    let plain = linear(1000);
    let rescaled = plain.rescaled_to_zero_terminal_snr().unwrap();
    assert!((rescaled.alphas_cumprod()[0] - plain.alphas_cumprod()[0]).abs() < 1e-12);
    assert_eq!(rescaled.alphas_cumprod()[999], 0.0);
    assert_eq!(rescaled.betas()[999], 1.0);
    assert_eq!(rescaled.terminal_snr_db(), f64::NEG_INFINITY);
    assert_eq!(linear(1).rescaled_to_zero_terminal_snr(), Err(ScheduleError::ZeroSnrNeedsTwoSteps));
}

#[test]
fn respacing_to_every_step_changes_nothing() {
    let s = cosine();
    for spacing in [TimestepSpacing::Leading, TimestepSpacing::Linspace, TimestepSpacing::Trailing]
    {
        let same = s.respace(1000, spacing).unwrap();
        assert_eq!(same.alphas_cumprod(), s.alphas_cumprod());
        assert_eq!(
            (0..1000).map(|i| same.timestep(i)).collect::<Vec<_>>(),
            (0..1000).collect::<Vec<_>>()
        );
        for (a, b) in same.betas().iter().zip(s.betas()) {
            assert!((a - b).abs() < 1e-12);
        }
    }
}

#[test]
fn a_respaced_schedule_keeps_alphas_cumprod_and_can_be_respaced_again() {
    let s = linear(1000);
    let ten = s.respace(10, TimestepSpacing::Leading).unwrap();
    assert_eq!(
        (0..10).map(|i| ten.timestep(i)).collect::<Vec<_>>(),
        (0..10).map(|i| i * 100).collect::<Vec<_>>()
    );
    let product: f64 = ten.betas().iter().map(|beta| 1.0 - beta).product();
    assert!((product / s.alphas_cumprod()[900] - 1.0).abs() < 1e-12);
    let five = ten.respace(5, TimestepSpacing::Leading).unwrap();
    assert_eq!((0..5).map(|i| five.timestep(i)).collect::<Vec<_>>(), [0, 200, 400, 600, 800]);
    assert_eq!(five.alphas_cumprod()[4], s.alphas_cumprod()[800]);
}

#[test]
fn spacings_differ_at_their_ends() {
    let steps = |spacing: TimestepSpacing| spacing.timesteps(1000, 10).unwrap();
    assert_eq!(steps(TimestepSpacing::Leading)[9], 900);
    assert_eq!(
        (steps(TimestepSpacing::Linspace)[0], steps(TimestepSpacing::Linspace)[9]),
        (0, 999)
    );
    assert_eq!(
        (steps(TimestepSpacing::Trailing)[0], steps(TimestepSpacing::Trailing)[9]),
        (99, 999)
    );
    // 61 does not divide 1000: there must still be 61 timesteps, none below 0.
    assert_eq!(TimestepSpacing::Trailing.timesteps(1000, 61).unwrap().len(), 61);
}

#[test]
fn impossible_respacings_are_errors() {
    let s = linear(10);
    for n in [0, 11] {
        let expected = ScheduleError::InferenceSteps { requested: n, available: 10 };
        assert_eq!(s.respace(n, TimestepSpacing::Leading).unwrap_err(), expected);
    }
    assert!(s.respace_to(&[3, 3]).unwrap_err().to_string().contains("number 1 is 3"));
    assert!(s.respace_to(&[3, 10]).unwrap_err().to_string().contains("number 1 is 10"));
    assert!(s.respace_to(&[]).is_err());
}

#[test]
fn a_plan_can_be_cut_into_its_first_or_last_steps() {
    let plan = SamplingPlan::new(&cosine(), 10, TimestepSpacing::Trailing, SigmaSpacing::Timesteps)
        .unwrap();
    assert_eq!(plan.last(10).unwrap(), plan);
    assert_eq!(plan.last(3).unwrap().steps(), &plan.steps()[7..]);
    assert_eq!(plan.first(3).unwrap().steps(), &plan.steps()[..3]);
    for part in [plan.last(0), plan.last(11), plan.first(0), plan.first(11)] {
        assert!(matches!(part, Err(ScheduleError::PartOfPlan { available: 10, .. })), "{part:?}");
    }
}

/// The value that serde deserialises from this name.
fn deserialised<T: for<'de> serde::Deserialize<'de>>(name: &str) -> Option<T> {
    let reader: StrDeserializer<'_, ValueError> = name.into_deserializer();
    T::deserialize(reader).ok()
}

#[test]
fn every_spacing_and_variance_is_found_by_its_name() {
    for &spacing in TimestepSpacing::ALL {
        assert_eq!(TimestepSpacing::from_name(spacing.name()), Some(spacing));
        assert_eq!(deserialised(spacing.name()), Some(spacing));
    }
    for &spacing in SigmaSpacing::ALL {
        assert_eq!(SigmaSpacing::from_name(spacing.name()), Some(spacing));
        assert_eq!(deserialised(spacing.name()), Some(spacing));
    }
    // Words are joined by hyphens on the command line and by underscores in files.
    for &variance in VarianceType::ALL {
        assert_eq!(VarianceType::from_name(variance.name()), Some(variance));
        assert_eq!(deserialised(&variance.to_string().replace('-', "_")), Some(variance));
    }
    assert_eq!(VarianceType::from_name("fixed"), None);
}

#[test]
fn the_posterior_mean_of_a_noiseless_image_is_exact() {
    // For x₀ and the noiseless x_t = √ᾱ_t·x₀ the mean must be √ᾱ_{t−1}·x₀.
    let s = cosine();
    for i in 0..s.len() {
        let posterior = s.posterior(i);
        let mean = posterior.coef_x0 + posterior.coef_xt * s.alphas_cumprod()[i].sqrt();
        let before = if i == 0 { 1.0 } else { s.alphas_cumprod()[i - 1] };
        assert!((mean - before.sqrt()).abs() < 1e-9, "at {i}: {mean}");
        assert!(posterior.variance <= s.betas()[i]);
    }
    assert_eq!(s.posterior(0).variance, 0.0);
    assert_eq!(s.posterior_log_variance_clipped(0), s.posterior(1).variance.ln());
}

/// ᾱ of the linear schedule, computed by logarithms and without a running product.
fn linear_alpha_cumprod(t: usize, steps: usize) -> f64 {
    let beta = |i: usize| 1e-4 + (0.02 - 1e-4) * i as f64 / (steps - 1) as f64;
    (0..=t).map(|i| (-beta(i)).ln_1p()).sum::<f64>().exp()
}

/// ᾱ of the cosine schedule in closed form, f(t + 1)/f(0). The clamp of β affects the last step
/// only.
fn cosine_alpha_cumprod(t: usize, steps: usize) -> f64 {
    let f =
        |u: f64| ((u / steps as f64 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    if t + 1 == steps { f(t as f64) / f(0.0) * 0.001 } else { f((t + 1) as f64) / f(0.0) }
}

fn tutorial(steps: usize) -> ScheduleComparison {
    let config = |beta_schedule| ScheduleConfig {
        num_train_timesteps: steps,
        beta_schedule,
        ..Default::default()
    };
    ScheduleComparison::new([
        ("linear".to_owned(), config(BetaSchedule::Linear).build().unwrap()),
        ("cosine".to_owned(), config(BetaSchedule::Cosine).build().unwrap()),
    ])
}

#[test]
fn the_tutorials_table_follows_from_closed_forms() {
    let comparison = tutorial(1000);
    for t in [0, 10, 100, 250, 500, 750, 900, 999] {
        let expected = [linear_alpha_cumprod(t, 1000), cosine_alpha_cumprod(t, 1000)];
        for (sample, alpha) in comparison.at(t).zip(expected) {
            let sample = sample.unwrap();
            assert!(
                (sample.alpha_cumprod / alpha - 1.0).abs() < 1e-9,
                "t = {t}: {sample:?}, {alpha}"
            );
            assert!(
                (sample.snr_db - 10.0 * (alpha / (1.0 - alpha)).log10()).abs() < 1e-6,
                "t = {t}: {sample:?}"
            );
        }
    }
    assert_eq!(comparison.at(1000).collect::<Vec<_>>(), [None, None]);
}

#[test]
fn the_schedules_have_the_reference_values() {
    // (t, ᾱ, dB), with the precision of the reference.
    let linear = [
        (0, 0.9999, 40.00),
        (10, 0.997_807, 26.58),
        (100, 0.895_142, 9.313),
        (250, 0.521_423, 0.372),
        (500, 0.077_797, -10.739),
        (750, 0.0033, -24.8),
        (900, 0.000_27, -35.68),
        (999, 4.0e-5, -43.94),
    ];
    let cosine = [
        (0, 0.999_959, 43.84),
        (100, 0.971_576, 15.338),
        (250, 0.845_888, 7.395),
        (500, 0.492_285, -0.134),
        (750, 0.143_179, -7.77),
        (900, 0.023_616, -16.164),
        (999, 2.4e-9, -86.15),
    ];
    let comparison = tutorial(1000);
    let check = |schedule: usize, (t, alpha, db): (usize, f64, f64)| {
        let sample = comparison.at(t).nth(schedule).unwrap().unwrap();
        assert!((sample.alpha_cumprod / alpha - 1.0).abs() < 0.015, "t = {t}: {sample:?}");
        assert!((sample.snr_db - db).abs() < 0.006, "t = {t}: {sample:?}");
    };
    for row in linear {
        check(0, row);
    }
    for row in cosine {
        check(1, row);
    }
    let short = tutorial(200);
    let end = short.at(199).next().unwrap().unwrap().alpha_cumprod;
    assert!((end - 0.132).abs() < 5e-4 && (end.sqrt() - 0.364).abs() < 5e-4, "{end}");
}

#[test]
fn crossings_are_where_signal_and_noise_are_equal() {
    for (steps, expected) in [(1000, [259, 496]), (200, [117, 99])] {
        let comparison = tutorial(steps);
        let alphas: [&dyn Fn(usize) -> f64; 2] =
            [&|t| linear_alpha_cumprod(t, steps), &|t| cosine_alpha_cumprod(t, steps)];
        for ((crossing, alpha), expected) in comparison.crossings().zip(alphas).zip(expected) {
            let crossing = crossing.unwrap();
            // At the crossing, half of the variance is signal.
            assert_eq!((0..steps).find(|&t| alpha(t) < 0.5), Some(crossing.index));
            assert_eq!(crossing.index, expected, "{steps} steps");
            let before = crossing.interpolated.floor() as usize;
            assert!(alpha(before) >= 0.5 && alpha(before + 1) < 0.5, "{crossing:?}");
        }
    }
    // In 200 steps with the tutorial's β the linear schedule never reaches noise and keeps its
    // signal longer.
    assert_eq!(
        (tutorial(1000).longest_signal(), tutorial(200).longest_signal()),
        (vec![1], vec![0])
    );
}

#[test]
fn a_schedule_may_never_cross_or_may_begin_below_0_db() {
    let gentle = NoiseSchedule::from_betas(vec![0.01; 10]).unwrap();
    let harsh = NoiseSchedule::from_betas(vec![0.9; 10]).unwrap();
    let named = |schedules: &[&NoiseSchedule]| {
        ScheduleComparison::new(
            schedules.iter().map(|&schedule| ("x".to_owned(), schedule.clone())),
        )
    };
    let comparison = named(&[&harsh, &gentle, &gentle]);
    let crossings: Vec<_> = comparison.crossings().collect();
    assert_eq!(crossings[0].map(|c| (c.index, c.interpolated)), Some((0, 0.0)));
    assert_eq!(crossings[1], None);
    assert_eq!(comparison.longest_signal(), [1, 2]);
    assert_eq!(named(&[]).longest_signal(), Vec::<usize>::new());
    // A last step without signal is at −∞ dB: the crossing is right after the step before it.
    let zero = ScheduleConfig {
        num_train_timesteps: 2,
        beta_end: 0.02,
        rescale_betas_zero_snr: true,
        ..Default::default()
    };
    let crossing = named(&[&zero.build().unwrap()]).crossings().next().unwrap().unwrap();
    assert_eq!((crossing.index, crossing.interpolated), (1, 0.0));
}
