use std::cell::RefCell;
use std::ops::ControlFlow;

use candle_core::{Result, Tensor};
use diffusion_process::{Levels, NoiseLevel, PredictionType};
use diffusion_sample::{Ddpm, Progress, VarianceType, sample_from};
use diffusion_tests::{assert_close, cases, flat, golden_json, golden_tensors, number, numbers, text};
use serde_json::Value;

use crate::schedules::schedule_of;

/// The functions that stand in for a network.
fn fake_model(name: &str, x: &Tensor, t: f64) -> Result<Tensor> {
    match name {
        "ratio" => x.affine(t / (t + 1.0), 0.0),
        "tanh_cos" => x.tanh()?.affine(0.7 * (t / 300.0).cos(), 0.0)? + x.affine(0.1, 0.0)?,
        other => panic!("no fake model named {other}"),
    }
}

/// What this project's DDPM can be told; the rest of the file is about options that it does not have.
fn sampler_of(config: &Value) -> Option<Ddpm> {
    let variance = match text(&config["variance_type"]) {
        // The logarithm is another way to the same number.
        "fixed_small" | "fixed_small_log" => VarianceType::FixedSmall,
        "fixed_large" => VarianceType::FixedLarge,
        _ => return None,
    };
    let clip_denoised = config["clip_sample"].as_bool()?;
    let plain = config["thresholding"] == false && number(&config["clip_sample_range"]) == 1.0;
    plain.then_some(Ddpm { variance, clip_denoised })
}

pub(crate) fn trajectories() {
    let tensors = golden_tensors("samplers/ddpm.safetensors");
    let mut checked = 0;
    for case in cases(&golden_json("samplers/ddpm.json")["cases"]) {
        let config = &case["config"];
        let Some(sampler) = sampler_of(config) else { continue };
        checked += 1;
        let id = text(&case["id"]);
        let mut timesteps: Vec<usize> = numbers(&case["timesteps"]).iter().map(|&t| t as usize).collect();
        timesteps.reverse();
        let schedule = schedule_of(config).respace_to(&timesteps).unwrap();
        let prediction_type: PredictionType =
            serde_json::from_value(config["prediction_type"].clone()).unwrap();
        let model = text(&case["fake_model"]);
        let states = RefCell::new(vec![]);
        let denoiser = |x_t: &Tensor, level: NoiseLevel| {
            states.borrow_mut().push(flat(x_t));
            let levels = Levels::new(&vec![level.alpha_cumprod; x_t.dim(0)?], x_t)?;
            prediction_type.to_prediction(&fake_model(model, x_t, level.timestep)?, x_t, &levels)
        };
        let noise = tensors.get(&format!("{id}/noise"));
        let calls = timesteps.len();
        let last = sample_from(
            tensors["x_init"].clone(),
            &denoiser,
            &sampler,
            &schedule,
            &|index| noise.expect("stochastic cases have noise").get(calls - 1 - index),
            &mut |_: Progress| ControlFlow::Continue(()),
        )
        .unwrap();
        states.borrow_mut().push(flat(&last));
        // The library adds noise in the last call too if its timestep is above 0; the paper does not, and nor do we.
        let noisy_end = timesteps[0] > 0 && sampler.variance == VarianceType::FixedLarge;
        for (row, step) in numbers(&case["x_steps"]).into_iter().enumerate() {
            let step = step as usize;
            if step == calls && noisy_end {
                continue;
            }
            let expected = flat(&tensors[&format!("{id}/x")].get(row).unwrap());
            let atol = number(&case["atol_float64_table"]);
            assert_close(&format!("{id} after {step} calls"), &states.borrow()[step], &expected, atol);
        }
    }
    assert!(checked > 0, "no case of the plain sampler");
}
