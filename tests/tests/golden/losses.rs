use std::collections::HashMap;

use candle_core::{DType, Tensor};
use diffusion_model::Objective;
use diffusion_process::PredictionType;
use diffusion_tests::{
    assert_close, cases, flat, golden_json, golden_tensors, number, numbers, text,
};
use diffusion_train::{LossConfig, LossWeighting, PixelError, TrainingLoss};
use serde_json::Value;

use crate::schedules::schedule_of;

/// The prediction types with their names in the file.
const TYPES: [(&str, PredictionType); 3] = [
    ("x0", PredictionType::Sample),
    ("epsilon", PredictionType::Epsilon),
    ("v", PredictionType::VPrediction),
];

fn timesteps(case: &Value) -> Vec<usize> {
    numbers(&case["timesteps"]).iter().map(|&t| t as usize).collect()
}

pub(crate) fn min_snr_weights() {
    for case in cases(&golden_json("training/training.json")["cases"]) {
        let schedule = schedule_of(&case["config"]);
        let by_gamma = case["min_snr_gamma_weights_f64"].as_object().unwrap();
        assert!(!by_gamma.is_empty());
        for (gamma, by_type) in by_gamma {
            let weighting = LossWeighting::MinSnr { gamma: gamma.parse().unwrap() };
            for (name, prediction_type) in TYPES {
                for (t, expected) in timesteps(case).into_iter().zip(numbers(&by_type[name])) {
                    let found = weighting.weight(prediction_type, schedule.snr(t));
                    let what = format!(
                        "{} γ {gamma} {name} at {t}: got {found}, expected {expected}",
                        case["id"]
                    );
                    assert!((found - expected).abs() <= 1e-10 * expected, "{what}");
                }
            }
        }
    }
}

pub(crate) fn loss_example() {
    let tensors = golden_tensors("training/training.safetensors");
    let file = golden_json("training/training.json");
    let example = &file["loss_example"];
    let case = cases(&file["cases"]).iter().find(|case| case["id"] == example["case"]).unwrap();
    for (name, prediction_type) in TYPES {
        let objective =
            Objective::Diffusion { schedule: schedule_of(&case["config"]), prediction_type };
        let expected = &example["losses_f64"][name];
        let losses = |weighting| losses(&objective, weighting, &timesteps(case), &tensors);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let close = |what: &str, found: f64, expected: f64| {
            let relative = (found / expected - 1.0).abs();
            assert!(
                relative <= 1e-5,
                "{} {name} {what}: got {found}, expected {expected}",
                text(&case["id"])
            );
        };
        let plain = losses(LossWeighting::None);
        let per_sample = numbers(&expected["per_sample_mse"]);
        assert_close(
            name,
            &plain,
            &per_sample,
            1e-5 * per_sample.iter().copied().fold(0.0, f64::max),
        );
        close("plain", mean(&plain), number(&expected["plain"]));
        let gamma = number(&example["gamma"]);
        let weighted = losses(LossWeighting::MinSnr { gamma });
        close("weighted", mean(&weighted), number(&expected["min_snr_gamma_5"]));
    }
}

/// The loss of each sample of the example, in f32 as in training.
fn losses(
    objective: &Objective,
    weighting: LossWeighting,
    timesteps: &[usize],
    tensors: &HashMap<String, Tensor>,
) -> Vec<f64> {
    let [x0, noise, output] =
        ["x0", "noise", "loss/prediction"].map(|name| tensors[name].to_dtype(DType::F32).unwrap());
    let schedule = objective.schedule().unwrap();
    let levels: Vec<_> = timesteps.iter().map(|&t| schedule.level(t)).collect();
    let batch = objective.noisy_batch(&x0, &noise, &levels).unwrap();
    let config = LossConfig { error: PixelError::Mse, weighting };
    let loss = TrainingLoss { objective: objective.clone(), config, learned_variance: false };
    flat(&loss.per_image(&output, &batch).unwrap())
}
