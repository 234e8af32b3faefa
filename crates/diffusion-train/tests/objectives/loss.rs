use candle_core::{DType, Device, Tensor, Var};
use diffusion_model::{EdmConfig, Objective};
use diffusion_process::{NoiseLevel, PredictionType};
use diffusion_train::{LossConfig, LossWeighting, PixelError, ReverseStep, TrainingLoss};

use crate::{diffusion, flat, normal};

#[test]
fn the_bound_of_a_perfect_prediction_depends_on_the_variance_only() {
    let Objective::Diffusion { schedule, .. } = &diffusion(50, PredictionType::Epsilon) else {
        panic!()
    };
    let (x0, noise) = (normal(1, 3).tanh().unwrap(), normal(2, 3));
    let levels = [1, 20, 49].map(|t| schedule.level(t));
    for prediction_type in
        [PredictionType::Epsilon, PredictionType::Sample, PredictionType::VPrediction]
    {
        let batch = diffusion(50, prediction_type).noisy_batch(&x0, &noise, &levels).unwrap();
        for output in [-1.0, 1.0] {
            let variance = Tensor::full(output, x0.shape(), &Device::Cpu).unwrap();
            let step = ReverseStep {
                schedule,
                prediction_type,
                output: &batch.target,
                variance: &variance,
            };
            let bits = flat(&step.bits(&x0, &batch.x_t, &levels).unwrap());
            for (t, bits) in [1, 20, 49].into_iter().zip(bits) {
                // −1 means the posterior's variance, 1 means β.
                let ratio = schedule.posterior(t).variance / schedule.betas()[t];
                let nats = if output < 0.0 { 0.0 } else { 0.5 * (ratio - ratio.ln() - 1.0) };
                let expected = nats / std::f64::consts::LN_2;
                assert!(
                    (bits - expected).abs() < 1e-9,
                    "{prediction_type:?} t {t}: got {bits}, expected {expected}"
                );
            }
        }
    }
}

/// The loss of three images under `objective` for the network's `output`, in f64.
fn losses(
    objective: &Objective,
    config: LossConfig,
    learned_variance: bool,
    output: &Var,
) -> Tensor {
    let (x0, noise) = (normal(1, 3).tanh().unwrap(), normal(2, 3));
    let levels = [0.0, 0.4, 0.9].map(|share| objective.level_at(share));
    let batch = objective.noisy_batch(&x0, &noise, &levels).unwrap();
    let loss = TrainingLoss { objective: objective.clone(), config, learned_variance };
    loss.per_image(output, &batch).unwrap()
}

#[test]
fn the_mean_learns_from_the_simple_loss_alone_and_the_variance_from_the_bound() {
    let both = Tensor::cat(&[normal(3, 3), normal(4, 3)], 1).unwrap();
    let output = Var::from_tensor(&both).unwrap();
    let objective = diffusion(50, PredictionType::VPrediction);
    let gradient = |loss: Tensor| {
        let gradients = loss.sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&output).unwrap();
        [0, 1].map(|half| flat(&gradient.narrow(1, half, 1).unwrap()))
    };
    let [mean, variance] = gradient(losses(&objective, LossConfig::default(), true, &output));

    let plain = Var::from_tensor(&normal(3, 3)).unwrap();
    let simple = losses(&objective, LossConfig::default(), false, &plain);
    let gradients = simple.sum_all().unwrap().backward().unwrap();
    assert_eq!(mean, flat(gradients.get(&plain).unwrap()));
    assert!(variance.iter().all(|g| g.is_finite() && *g != 0.0), "{variance:?}");

    // The bound alone: the mean gets no gradient, not even a rounding error.
    let Objective::Diffusion { schedule, prediction_type } = objective else { panic!() };
    let (x0, noise) = (normal(1, 3).tanh().unwrap(), normal(2, 3));
    let levels = [0, 20, 45].map(|t| schedule.level(t));
    let halves = [0, 1].map(|half| output.narrow(1, half, 1).unwrap());
    let step = ReverseStep {
        schedule: &schedule,
        prediction_type,
        output: &halves[0],
        variance: &halves[1],
    };
    let [mean, variance] = gradient(step.bits(&x0, &noise, &levels).unwrap());
    assert!(mean.iter().all(|g| *g == 0.0));
    assert!(variance.iter().all(|g| g.is_finite()) && variance.iter().any(|g| *g != 0.0));
}

#[test]
fn pixel_errors_are_squared_absolute_and_huber() {
    let output = Tensor::new(&[[[[0.5, -3.0]]]], &Device::Cpu).unwrap();
    let target = output.zeros_like().unwrap();
    let error = |kind: PixelError| flat(&kind.per_image(&output, &target).unwrap())[0];
    assert_eq!(error(PixelError::Mse), f64::midpoint(0.25, 9.0));
    assert_eq!(error(PixelError::L1), f64::midpoint(0.5, 3.0));
    assert_eq!(error(PixelError::Huber { delta: 2.0 }), f64::midpoint(0.125, 2.0 * (3.0 - 1.0)));
    assert_eq!(error(PixelError::Huber { delta: 9.0 }), 0.5 * error(PixelError::Mse));

    let x = Var::from_tensor(&output).unwrap();
    let loss = PixelError::Huber { delta: 2.0 }.per_image(&x, &target).unwrap();
    let gradient = loss.sum_all().unwrap().backward().unwrap();
    assert_eq!(flat(gradient.get(&x).unwrap()), [0.5 / 2.0, -2.0 / 2.0]);
}

/// The squared error of ε is SNR times that of x₀, and that of v is SNR + 1 times that of x₀, so a
/// weighting of one determines the others.
#[test]
fn a_weighting_means_the_same_for_every_prediction_type() {
    let weightings =
        [LossWeighting::MinSnr { gamma: 5.0 }, LossWeighting::P2 { k: 1.0, gamma: 0.5 }];
    for weighting in weightings {
        for snr in [1e-4, 0.3, 1.0, 4.9, 5.1, 1e4] {
            let weight = |of| weighting.weight(of, snr);
            let x0 = weight(PredictionType::Sample);
            assert!(
                (weight(PredictionType::Epsilon) * snr / x0 - 1.0).abs() < 1e-12,
                "{weighting:?} {snr}"
            );
            let v = weight(PredictionType::VPrediction) * (snr + 1.0);
            assert!((v / x0 - 1.0).abs() < 1e-12, "{weighting:?} {snr}");
        }
        assert_eq!(weighting.weight(PredictionType::Epsilon, 0.0), 1.0);
        assert_eq!(weighting.weight(PredictionType::VPrediction, 0.0), 0.0);
    }
    let p2 = LossWeighting::P2 { k: 2.0, gamma: 2.0 };
    assert_eq!(p2.weight(PredictionType::Epsilon, 2.0), 1.0 / 16.0);

    // The loss applies the weight of each image's level.
    let objective = diffusion(50, PredictionType::Epsilon);
    let Objective::Diffusion { schedule, .. } = &objective else { panic!() };
    let output = Var::from_tensor(&normal(3, 3)).unwrap();
    let plain = flat(&losses(&objective, LossConfig::default(), false, &output));
    let config =
        LossConfig { weighting: LossWeighting::MinSnr { gamma: 5.0 }, ..LossConfig::default() };
    let weighted = flat(&losses(&objective, config, false, &output));
    for ((plain, weighted), t) in plain.into_iter().zip(weighted).zip([0, 20, 45]) {
        let expected = plain * (5.0 / schedule.snr(t)).min(1.0);
        assert!((weighted - expected).abs() < 1e-12, "{t}");
    }
}

#[test]
fn edm_minimises_the_denoisers_error_weighted_by_lambda() {
    let objective = Objective::Edm(EdmConfig::default());
    let output = Var::from_tensor(&normal(3, 3)).unwrap();
    let found = flat(&losses(&objective, LossConfig::default(), false, &output));
    let (x0, noise) = (normal(1, 3).tanh().unwrap(), normal(2, 3));
    for (i, share) in [0.0, 0.4, 0.9].into_iter().enumerate() {
        let level = objective.level_at(share);
        let (sigma, c) = (level.sigma(), objective.parametrisation().preconditioning(&level));
        let row = |x: &Tensor| x.narrow(0, i, 1).unwrap();
        let x = (row(&x0) + (row(&noise) * sigma).unwrap()).unwrap();
        let denoised = ((x * c.c_skip).unwrap() + (row(&output) * c.c_out).unwrap()).unwrap();
        let error = (denoised - row(&x0)).unwrap().sqr().unwrap().mean_all().unwrap();
        // λ(σ) = (σ² + σ_data²)/(σ·σ_data)² (Karras et al. 2022, eq. 8).
        let lambda = (sigma * sigma + 0.25) / (sigma * 0.5).powi(2);
        let expected = lambda * flat(&error)[0];
        assert!(
            (found[i] / expected - 1.0).abs() < 1e-6,
            "σ {sigma}: got {}, expected {expected}",
            found[i]
        );
    }
}

#[test]
fn flow_and_edm_batches_have_the_defined_inputs_timesteps_and_targets() {
    let (x0, noise) =
        (normal(1, 2).to_dtype(DType::F32).unwrap(), normal(2, 2).to_dtype(DType::F32).unwrap());
    let close = |a: &Tensor, b: &Tensor| {
        assert!(flat(a).iter().zip(flat(b)).all(|(a, b)| (a - b).abs() < 1e-6));
    };
    let levels = [0.25, 0.75].map(|s| Objective::Flow.level_at(s));
    let flow = Objective::Flow.noisy_batch(&x0, &noise, &levels).unwrap();
    assert_eq!(flat(&flow.timesteps), [250.0, 750.0]);
    close(&flow.target, &(&noise - &x0).unwrap());
    let halfway = NoiseLevel::flow(500.0, 0.5);
    let flow = Objective::Flow.noisy_batch(&x0, &noise, &[halfway; 2]).unwrap();
    close(&flow.input, &((&x0 + &noise).unwrap() * 0.5).unwrap());

    let config = EdmConfig::default();
    let objective = Objective::Edm(config);
    let level = NoiseLevel::variance_exploding(0.5f64.ln() / 4.0, 0.5);
    let edm = objective.noisy_batch(&x0, &noise, &[level; 2]).unwrap();
    // σ = σ_data: c_in = √2, c_skip = ½.
    close(&edm.input, &(&edm.x_t * 2f64.sqrt()).unwrap());
    close(&edm.timesteps, &Tensor::full(0.5f32.ln() / 4.0, 2, &Device::Cpu).unwrap());
}
