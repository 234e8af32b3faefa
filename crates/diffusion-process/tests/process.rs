//! Properties of the forward process, the conversions and the noise source.

use candle_core::{Device, Result, Tensor};
use diffusion_process::{
    Denoiser, Domain, Levels, Network, NetworkDenoiser, NoiseLevel, NoiseSource, Parametrisation,
    Prediction, Threshold, Thresholded,
};
use diffusion_schedule::{BetaSchedule, NoiseSchedule, Posterior, ScheduleConfig};

const TYPES: [Parametrisation; 3] =
    [Parametrisation::Epsilon, Parametrisation::Sample, Parametrisation::VPrediction];

fn schedule() -> NoiseSchedule {
    ScheduleConfig::default().build().unwrap()
}

fn normal(domain: Domain, n: u64) -> Tensor {
    NoiseSource::new(3).normal(domain, 0, 0..n, &[2, 4, 4], &Device::Cpu).unwrap()
}

fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn each_image_is_noised_by_its_own_timestep() {
    let (x0, noise) = (normal(Domain::Initial, 3), normal(Domain::Training, 3));
    let timesteps = [0, 500, 999];
    let x_t = Levels::at(&schedule(), &timesteps, &x0).unwrap().add_noise(&x0, &noise).unwrap();
    for (i, &t) in timesteps.iter().enumerate() {
        let alpha_cumprod = schedule().alphas_cumprod()[t];
        let expected = (x0.get(i).unwrap().affine(alpha_cumprod.sqrt(), 0.0).unwrap()
            + noise.get(i).unwrap().affine((1.0 - alpha_cumprod).sqrt(), 0.0).unwrap())
        .unwrap();
        assert!(max_difference(&x_t.get(i).unwrap(), &expected) < 1e-6);
    }
}

#[test]
fn the_target_of_every_prediction_type_gives_back_image_and_noise() {
    let (x0, noise) = (normal(Domain::Initial, 4), normal(Domain::Training, 4));
    let levels = Levels::at(&schedule(), &[0, 100, 400, 700], &x0).unwrap();
    let x_t = levels.add_noise(&x0, &noise).unwrap();
    for kind in TYPES {
        let output = kind.target(&x0, &noise, &levels).unwrap();
        let p = kind.to_prediction(&output, &x_t, &levels).unwrap();
        assert!(max_difference(&p.x0, &x0) < 1e-4, "{kind:?} x0");
        assert!(max_difference(&p.noise, &noise) < 1e-4, "{kind:?} noise");
        assert!(
            max_difference(&kind.from_prediction(&p, &levels).unwrap(), &output) < 1e-4,
            "{kind:?}"
        );
    }
}

#[test]
fn a_level_without_signal_works_for_v_and_x0_and_is_an_error_for_epsilon() {
    let config = ScheduleConfig { rescale_betas_zero_snr: true, ..Default::default() };
    let (x0, noise) = (normal(Domain::Initial, 1), normal(Domain::Training, 1));
    let levels = Levels::at(&config.build().unwrap(), &[999], &x0).unwrap();
    let x_t = levels.add_noise(&x0, &noise).unwrap();
    assert_eq!(max_difference(&x_t, &noise), 0.0);
    for kind in [Parametrisation::Sample, Parametrisation::VPrediction] {
        let p =
            kind.to_prediction(&kind.target(&x0, &noise, &levels).unwrap(), &x_t, &levels).unwrap();
        assert!(
            max_difference(&p.x0, &x0) < 1e-6 && max_difference(&p.noise, &noise) < 1e-6,
            "{kind:?}"
        );
    }
    let error = Parametrisation::Epsilon.to_prediction(&noise, &x_t, &levels).unwrap_err();
    assert!(error.to_string().contains("alpha_cumprod is 0"), "{error}");
}

#[test]
fn wrong_counts_and_timesteps_are_errors() {
    let x0 = normal(Domain::Initial, 2);
    let message =
        |indices: &[usize]| Levels::at(&schedule(), indices, &x0).unwrap_err().to_string();
    assert!(message(&[1]).contains("1 noise levels for a batch of 2"));
    assert!(message(&[1, 1000]).contains("timestep 1000 is outside the schedule of 1000 steps"));
}

#[test]
fn the_noise_of_an_image_depends_on_seed_and_index_only() {
    let noise = |seed, range| {
        NoiseSource::new(seed).normal(Domain::Initial, 0, range, &[1, 5, 5], &Device::Cpu).unwrap()
    };
    let all = noise(1, 0..7);
    for i in 0..7 {
        let alone = noise(1, i as u64..i as u64 + 1).get(0).unwrap();
        assert_eq!(max_difference(&all.get(i).unwrap(), &alone), 0.0);
    }
    assert!(max_difference(&all, &noise(2, 0..7)) > 0.1);
    let other_draw =
        NoiseSource::new(1).normal(Domain::Initial, 1, 0..7, &[1, 5, 5], &Device::Cpu).unwrap();
    let other_domain =
        NoiseSource::new(1).normal(Domain::Sampler, 0, 0..7, &[1, 5, 5], &Device::Cpu).unwrap();
    assert!(max_difference(&all, &other_draw) > 0.1 && max_difference(&all, &other_domain) > 0.1);
}

#[test]
fn noise_is_standard_normal() {
    let x =
        NoiseSource::new(0).normal(Domain::Training, 5, 0..64, &[1, 32, 32], &Device::Cpu).unwrap();
    let x: Vec<f64> =
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
    let moment = |k: i32| x.iter().map(|v| v.powi(k)).sum::<f64>() / x.len() as f64;
    // 65,536 numbers: standard errors 0.0039, 0.0055, 0.015 and 0.038.
    assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.03);
    assert!(moment(3).abs() < 0.08 && (moment(4) - 3.0).abs() < 0.2);
}

#[test]
fn the_posterior_mean_is_the_mean_of_ddpm_algorithm_2() {
    // Algorithm 2's mean is (x − β/√(1−ᾱ)·ε)/√α, here with the same ε.
    let schedule = ScheduleConfig { beta_schedule: BetaSchedule::Cosine, ..Default::default() }
        .build()
        .unwrap();
    let (x_t, noise) = (normal(Domain::Initial, 1), normal(Domain::Training, 1));
    for i in [0, 1, 300, 900] {
        let levels = Levels::at(&schedule, &[i], &x_t).unwrap();
        let x0 = Parametrisation::Epsilon.to_prediction(&noise, &x_t, &levels).unwrap().x0;
        let to = if i == 0 { NoiseLevel::CLEAN } else { schedule.level(i - 1) };
        let posterior = Posterior::between(&schedule.level(i), &to);
        let mean = (x0.affine(posterior.coef_x0, 0.0).unwrap()
            + x_t.affine(posterior.coef_xt, 0.0).unwrap())
        .unwrap();
        let (beta, alpha_cumprod) = (schedule.betas()[i], schedule.alphas_cumprod()[i]);
        let direct = (&x_t - noise.affine(beta / (1.0 - alpha_cumprod).sqrt(), 0.0).unwrap())
            .unwrap()
            .affine(1.0 / (1.0 - beta).sqrt(), 0.0)
            .unwrap();
        assert!(max_difference(&mean, &direct) < 2e-4, "at {i}");
    }
}

#[test]
fn a_network_receives_the_timestep_once_per_image() {
    struct Echo;
    impl Network for Echo {
        fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
            assert_eq!(timesteps.to_vec1::<f32>()?, [17.5, 17.5]);
            x_t.zeros_like()
        }
    }
    let x_t = normal(Domain::Initial, 2);
    let level = NoiseLevel::variance_preserving(17.5, 0.25);
    let Prediction { x0, .. } =
        NetworkDenoiser::new(&Echo, Parametrisation::Epsilon).denoise(&x_t, level).unwrap();
    assert!(max_difference(&x0, &(x_t * 2.0).unwrap()) < 1e-6);
}

#[test]
fn a_flows_prediction_gives_back_image_and_noise() {
    let (x0, noise) = (normal(Domain::Initial, 3), normal(Domain::Training, 3));
    let levels = [0.0, 0.3, 1.0].map(|s| NoiseLevel::flow(1000.0 * s, s));
    let levels = Levels::new(&levels, &x0).unwrap();
    let x_t = levels.add_noise(&x0, &noise).unwrap();
    let output = Parametrisation::Flow.target(&x0, &noise, &levels).unwrap();
    let p = Parametrisation::Flow.to_prediction(&output, &x_t, &levels).unwrap();
    assert!(max_difference(&p.x0, &x0) < 1e-6 && max_difference(&p.noise, &noise) < 1e-6);
}

#[test]
fn the_estimate_of_an_image_is_the_same_at_any_scale() {
    struct Tanh;
    impl Network for Tanh {
        fn forward(&self, x_t: &Tensor, _: &Tensor) -> Result<Tensor> {
            x_t.tanh()
        }
    }
    let level = schedule().level(400);
    let x_t = normal(Domain::Initial, 2);
    for kind in [TYPES.as_slice(), &[Parametrisation::Flow]].concat() {
        let denoiser = NetworkDenoiser::new(Tanh, kind);
        let here = denoiser.denoise(&x_t, level).unwrap();
        let there = denoiser.denoise(&(&x_t * 3.0).unwrap(), level.scaled(3.0)).unwrap();
        assert!(max_difference(&here.x0, &there.x0) < 1e-5, "{kind:?}");
        assert!(max_difference(&here.noise, &there.noise) < 1e-5, "{kind:?}");
    }
}

#[test]
fn the_second_half_of_the_channels_is_a_learned_variance() {
    struct Two;
    impl Network for Two {
        fn forward(&self, x_t: &Tensor, _: &Tensor) -> Result<Tensor> {
            Tensor::cat(&[x_t, &x_t.ones_like()?], 1)
        }
    }
    let x_t = normal(Domain::Initial, 2);
    let p = NetworkDenoiser::new(Two, Parametrisation::Sample)
        .denoise(&x_t, schedule().level(9))
        .unwrap();
    assert_eq!(max_difference(&p.x0, &x_t), 0.0);
    assert_eq!(max_difference(&p.variance.unwrap(), &x_t.ones_like().unwrap()), 0.0);
}

#[test]
fn thresholds_keep_the_image_in_range_and_image_and_noise_consistent() {
    let level = schedule().level(500);
    let x_t = (normal(Domain::Initial, 2) * 3.0).unwrap();
    let denoiser =
        |x: &Tensor, level: NoiseLevel| Prediction::from_x0(x, x, &Levels::new(&[level; 2], x)?);
    for threshold in [Threshold::Clip { range: 1.0 }, Threshold::Dynamic { ratio: 0.9, max: 3.0 }] {
        let p = Thresholded::new(&denoiser, threshold).denoise(&x_t, level).unwrap();
        assert!(
            p.x0.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() <= 1.0,
            "{threshold:?}"
        );
        let again = Levels::new(&[level; 2], &x_t).unwrap().add_noise(&p.x0, &p.noise).unwrap();
        assert!(max_difference(&again, &x_t) < 1e-5, "{threshold:?}");
        let p =
            Thresholded::new(&denoiser, threshold).keeping_noise().denoise(&x_t, level).unwrap();
        assert_eq!(max_difference(&p.noise, &denoiser(&x_t, level).unwrap().noise), 0.0);
    }
    let bad = Thresholded::new(&denoiser, Threshold::Dynamic { ratio: 1.5, max: 2.0 });
    assert!(bad.denoise(&x_t, level).unwrap_err().to_string().contains("ratio in [0, 1]"));
}

/// D(x) with the factors c_skip, c_out and c_div written out is the image that each
/// parametrisation's conversion gives.
#[test]
fn every_parametrisation_is_a_choice_of_four_factors() {
    let scale = 2.5;
    let level = schedule().level(300);
    let cases = [
        (Parametrisation::Epsilon, level),
        (Parametrisation::Sample, level),
        (Parametrisation::VPrediction, level),
        (Parametrisation::VPrediction, level.scaled(scale)),
        (Parametrisation::Flow, NoiseLevel::flow(400.0, 0.4)),
        (Parametrisation::Flow, NoiseLevel::flow(400.0, 0.4).scaled(scale)),
        (Parametrisation::Edm { sigma_data: 0.5 }, NoiseLevel::variance_exploding(0.0, 1.7)),
        (
            Parametrisation::Edm { sigma_data: 0.5 },
            NoiseLevel::variance_exploding(0.0, 1.7).scaled(0.3),
        ),
    ];
    let (x0, noise) = (normal(Domain::Initial, 2), normal(Domain::Training, 2));
    for (kind, level) in cases {
        let levels = Levels::new(&[level; 2], &x0).unwrap();
        let x = levels.add_noise(&x0, &noise).unwrap();
        let output = kind.target(&x0, &noise, &levels).unwrap();
        let c = kind.preconditioning(&level);
        let sum = ((&x * c.c_skip).unwrap() + (&output * c.c_out).unwrap()).unwrap();
        assert!(max_difference(&(sum / c.c_div).unwrap(), &x0) < 1e-5, "{kind:?} at {level:?}");
        let p = kind.to_prediction(&output, &x, &levels).unwrap();
        assert!(max_difference(&p.x0, &x0) < 1e-5, "{kind:?} at {level:?}");
        assert!(max_difference(&p.noise, &noise) < 1e-5, "{kind:?} at {level:?}");
    }
}

#[test]
fn edm_preconditioning_has_unit_variance_inside_and_out() {
    // Karras et al. 2022, appendix B.6: c_in and c_out keep input and target at variance 1 for any
    // sigma.
    let sigma_data = 0.5;
    for sigma in [0.002, 0.1, 0.5, 3.0, 80.0] {
        let c = Parametrisation::Edm { sigma_data }
            .preconditioning(&NoiseLevel::variance_exploding(0.0, sigma));
        let (s2, d2) = (sigma * sigma, sigma_data * sigma_data);
        assert!((c.c_in.powi(2) * (s2 + d2) - 1.0).abs() < 1e-12);
        let target = ((1.0 - c.c_skip).powi(2) * d2 + c.c_skip.powi(2) * s2) / c.c_out.powi(2);
        assert!((target - 1.0).abs() < 1e-9, "{target} at {sigma}");
        assert!((c.c_noise - sigma.ln() / 4.0).abs() < 1e-12);
    }
}
