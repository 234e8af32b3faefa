//! Every trajectory of the golden folder, with the plan, sampler and denoiser of its scheduler.

use std::cell::RefCell;
use std::ops::ControlFlow;

use candle_core::Tensor;
use diffusion_interop::{InteropError, Scheduler, SchedulerClass, StepArguments, Steps};
use diffusion_process::{Denoiser, Levels, Network, NoiseLevel, Thresholded};
use diffusion_sample::{Churn, Progress, sample_from};
use diffusion_tests::{
    Coverage, assert_close, cases, flat, golden_dir, golden_json, golden_tensors, number, numbers,
    text,
};
use serde_json::Value;

/// A closed-form function in place of a network, by its name in the golden files.
struct FakeNetwork(String);

impl Network for FakeNetwork {
    fn forward(&self, x: &Tensor, timesteps: &Tensor) -> candle_core::Result<Tensor> {
        let t = f64::from(timesteps.get(0)?.to_scalar::<f32>()?);
        let tanh_cos =
            |angle: f64| x.tanh()?.affine(0.7 * angle.cos(), 0.0)? + x.affine(0.1, 0.0)?;
        match self.0.as_str() {
            "ratio" => x.affine(t / (t + 1.0), 0.0),
            "tanh_cos" => tanh_cos(t / 300.0),
            "tanh_cos1" => tanh_cos(t),
            "tanh_cos_2c" => {
                Tensor::cat(&[tanh_cos(t / 300.0)?, (x * 2.0)?.sin()?.affine(0.9, 0.0)?], 1)
            }
            other => panic!("unknown fake model `{other}`"),
        }
    }
}

/// The arguments of `step`. The error names one that is not supported.
fn arguments(case: &Value) -> Result<StepArguments, String> {
    const KNOWN: [&str; 7] =
        ["eta", "use_clipped_model_output", "s_churn", "s_tmin", "s_tmax", "s_noise", "order"];
    let json = &case["step_arguments"];
    let mut given = json.as_object().into_iter().flatten();
    if let Some((key, value)) =
        given.find(|(key, value)| !value.is_null() && !KNOWN.contains(&key.as_str()))
    {
        return Err(format!("step argument {key} = {value}"));
    }
    let or = |key: &str, default: f64| json[key].as_f64().unwrap_or(default);
    Ok(StepArguments {
        eta: or("eta", 0.0),
        use_clipped_model_output: json["use_clipped_model_output"] == true,
        churn: Churn {
            amount: or("s_churn", 0.0),
            min: or("s_tmin", 0.0),
            max: or("s_tmax", f64::INFINITY),
            deviation: or("s_noise", 1.0),
        },
        order: json["order"].as_u64().map(|order| order as usize),
    })
}

/// The steps of a case. The error names a choice of steps that is not supported.
fn steps(case: &Value) -> Result<Steps, String> {
    let fields = case.as_object().into_iter().flatten();
    let mut custom =
        fields.filter(|(key, value)| key.strip_prefix("custom_").is_some() && !value.is_null());
    match custom.next() {
        None => Ok(Steps::Count(number(&case["num_inference_steps"]) as usize)),
        Some((key, list)) if key == "custom_timesteps" => {
            Ok(Steps::Timesteps(numbers(list).iter().map(|&t| t as usize).collect()))
        }
        Some((key, _)) => Err(format!("{key} is given")),
    }
}

/// The names of the case files, without their extensions.
fn files() -> Vec<String> {
    let folder = golden_dir().join("samplers");
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            Some(entry.unwrap().file_name().to_str()?.strip_suffix(".json")?.to_owned())
        })
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no sampler cases in {}", folder.display());
    names
}

/// The cases of this package whose scheduler is not supported.
const UNSUPPORTED: &[&str] = &[];

/// The scheduler of a case; the error is the reason why it is not supported.
fn scheduler(case: &Value) -> Result<Scheduler, String> {
    let name = text(&case["class"]);
    let class = SchedulerClass::from_name(name).ok_or_else(|| format!("class {name}"))?;
    let config = serde_json::from_value(case["config"].clone()).map_err(|e| e.to_string())?;
    Scheduler::new(class, config).map_err(|e| e.to_string())
}

pub(crate) fn trajectories() {
    let mut coverage = Coverage::default();
    for file in files() {
        let json = golden_json(&format!("samplers/{file}.json"));
        let tensors = golden_tensors(&format!("samplers/{file}.safetensors"));
        for case in cases(&json["cases"]) {
            let id = format!("{file}/{}", text(&case["id"]));
            let tensor = |name: &str| tensors.get(&format!("{}/{name}", text(&case["id"])));
            let outcome = scheduler(case).and_then(|scheduler| {
                trajectory(&id, case, &scheduler, &tensors["x_init"], &tensor)
            });
            coverage.count(id, outcome);
        }
    }
    coverage.finish("sampler trajectories", UNSUPPORTED);
}

fn trajectory<'a>(
    id: &str,
    case: &Value,
    scheduler: &Scheduler,
    x_init: &Tensor,
    tensor: &dyn Fn(&str) -> Option<&'a Tensor>,
) -> Result<(), String> {
    let arguments = arguments(case)?;
    let plan = match scheduler.plan(&steps(case)?) {
        Err(e @ InteropError::Unsupported { .. }) => return Err(e.to_string()),
        plan => plan.unwrap_or_else(|e| panic!("{id}: {e}")),
    };
    let network = scheduler.denoiser(FakeNetwork(text(&case["fake_model"]).to_owned()));
    let calls = RefCell::new(vec![]);
    let x0s = RefCell::new(vec![]);
    let thresholded = scheduler.threshold(&arguments).map(|(threshold, keep_noise)| {
        let thresholded = Thresholded::new(&*network, threshold);
        if keep_noise { thresholded.keeping_noise() } else { thresholded }
    });
    let recorded = |x: &Tensor, level: NoiseLevel| {
        calls.borrow_mut().push((level, flat(x)));
        let prediction = match &thresholded {
            Some(thresholded) => thresholded.denoise(x, level),
            None => network.denoise(x, level),
        }?;
        x0s.borrow_mut().push(flat(&prediction.x0));
        Ok(prediction)
    };
    let noise = |number: usize| tensor("noise").expect("stochastic cases have noise").get(number);
    let start = (x_init * number(&case["init_noise_sigma"])).unwrap();
    let mut sampler = scheduler.sampler(&arguments);
    let progress = &mut |_: Progress<'_>| ControlFlow::Continue(());
    let last = sample_from(start, &recorded, &mut *sampler, &plan, &noise, progress);
    let last = last.unwrap_or_else(|e| panic!("{id}: {e}"));

    let calls = calls.into_inner();
    let expected = numbers(&case["timesteps"]);
    assert_eq!(calls.len(), expected.len(), "{id}: calls");
    let timesteps: Vec<f64> = calls.iter().map(|(level, _)| level.timestep).collect();
    assert_close(
        &format!("{id} timesteps"),
        &timesteps,
        &expected,
        number(&case["timesteps_atol"]),
    );
    if case["sigmas"].is_array() {
        let rtol = number(&case["sigmas_rtol_float64_table"]);
        for (k, (sigma, (level, _))) in numbers(&case["sigmas"]).into_iter().zip(&calls).enumerate()
        {
            let found = level.sigma();
            assert!(
                (found - sigma).abs() <= rtol * sigma,
                "{id}: sigma {k} is {found}, expected {sigma}"
            );
        }
        let end = plan.steps()[plan.steps().len() - 1].to.sigma();
        let reference = *numbers(&case["sigmas"]).last().unwrap();
        assert!(
            (end - reference).abs() <= rtol * reference,
            "{id}: the last sigma is {end}, expected {reference}"
        );
    }
    let mut states: Vec<&[f64]> = calls.iter().map(|(_, x)| x.as_slice()).collect();
    let last = flat(&last);
    states.push(&last);
    let atol = number(&case["atol_float64_table"]);
    let x = tensor("x").unwrap_or_else(|| panic!("{id}: no trajectory"));
    for (row, step) in numbers(&case["x_steps"]).into_iter().enumerate() {
        let reference = flat(&x.get(row).unwrap());
        assert_close(&format!("{id} after {step} calls"), states[step as usize], &reference, atol);
    }
    let x0s = x0s.into_inner();
    for (name, x0) in [("x0_first", x0s.first()), ("x0_last", x0s.last())] {
        if let (Some(reference), Some(x0)) = (tensor(name), x0) {
            assert_close(&format!("{id} {name}"), x0, &flat(reference), atol);
        }
    }
    Ok(())
}

#[test]
fn what_a_case_asks_for_is_supported_or_named() {
    let case = |arguments: Value, custom: Value| {
        serde_json::json!({
            "step_arguments": arguments, "num_inference_steps": 5, "custom_timesteps": null,
            "custom_sigmas": custom,
        })
    };
    let plain = case(serde_json::json!({ "eta": 0.5, "generator": null }), Value::Null);
    assert_eq!(arguments(&plain).unwrap().eta, 0.5);
    assert_eq!(steps(&plain).unwrap(), Steps::Count(5));
    let other = case(serde_json::json!({ "variance_noise": 1 }), serde_json::json!([1.0]));
    assert_eq!(arguments(&other).unwrap_err(), "step argument variance_noise = 1");
    assert_eq!(steps(&other).unwrap_err(), "custom_sigmas is given");
}

/// x₀ + σ·noise at the levels of a ten-step Euler schedule.
pub(crate) fn euler_add_noise() {
    let tensors = golden_tensors("training/training.safetensors");
    let case = &golden_json("training/training.json")["euler_add_noise"];
    let config = serde_json::from_value(case["config"].clone()).unwrap();
    let scheduler = Scheduler::new(SchedulerClass::Euler, config).unwrap();
    let plan =
        scheduler.plan(&Steps::Count(number(&case["num_inference_steps"]) as usize)).unwrap();
    let (x0, noise) = (&tensors["x0"], &tensors["noise"]);
    let levels: Vec<NoiseLevel> = flat(&tensors["euler_add_noise/timesteps"])
        .into_iter()
        .map(|t| {
            let nearest = plan
                .steps()
                .iter()
                .map(|step| step.from)
                .find(|level| (level.timestep - t).abs() < 1e-3);
            nearest.unwrap_or_else(|| panic!("no step at {t}"))
        })
        .collect();
    let found = flat(&Levels::new(&levels, x0).unwrap().add_noise(x0, noise).unwrap());
    for (found, reference) in found.iter().zip(flat(&tensors["euler_add_noise/out"])) {
        assert!(
            (found - reference).abs() <= 1e-4 * reference.abs().max(1.0),
            "{found}, expected {reference}"
        );
    }
}
