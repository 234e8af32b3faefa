use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use diffusion_interop::{Scheduler, SchedulerClass, StepArguments, Steps};
use diffusion_process::{Levels, NoiseLevel, Parametrisation, Prediction};
use diffusion_sample::sample_from;
use diffusion_schedule::{NoiseSchedule, Posterior, SamplingPlan, ScheduleConfig};
use diffusion_tests::{
    assert_close, cases, flat, golden_json, golden_tensors, number, numbers, text,
};
use serde_json::{Value, json};

/// The schedule that a golden configuration describes.
pub(crate) fn schedule_of(config: &Value) -> NoiseSchedule {
    let fields = [
        "num_train_timesteps",
        "beta_schedule",
        "beta_start",
        "beta_end",
        "rescale_betas_zero_snr",
    ];
    let present: BTreeMap<&str, &Value> = fields
        .into_iter()
        .filter_map(|field| Some((field, config.get(field)?)))
        .filter(|(_, v)| !v.is_null())
        .collect();
    let config: ScheduleConfig = serde_json::from_value(json!(present)).unwrap();
    config.build().unwrap()
}

pub(crate) fn tables() {
    let tensors = golden_tensors("schedules/tables.safetensors");
    let entries = golden_json("schedules/tables.json");
    let entries = entries["entries"].as_object().unwrap();
    assert!(!entries.is_empty());
    for (name, entry) in entries {
        let schedule = schedule_of(entry);
        let expected = |table: &str| flat(&tensors[&format!("{name}/{table}")]);
        assert_close(&format!("{name} betas"), schedule.betas(), &expected("betas_f64"), 1e-12);
        for (t, (found, reference)) in
            schedule.alphas_cumprod().iter().zip(expected("alphas_cumprod_f64")).enumerate()
        {
            assert!(
                (found - reference).abs() <= 1e-12 * reference,
                "{name} alphas_cumprod[{t}]: {found:e}, expected {reference:e}"
            );
        }
        assert_close(
            &format!("{name} f32"),
            schedule.alphas_cumprod(),
            &expected("alphas_cumprod_f32"),
            1e-6,
        );
        // A β of a rescaled schedule is a difference of numbers near 1; the file holds the rounding
        // error of float32.
        let relative = number(&entry["max_rel_diff_f32_vs_f64_betas"]) * 1.01;
        for (t, (found, reference)) in
            schedule.betas().iter().zip(expected("betas_f32")).enumerate()
        {
            assert!(
                (found - reference).abs() <= relative * found,
                "{name} betas_f32[{t}]: {found:e}, expected {reference:e}"
            );
        }
        let spots: Vec<usize> = numbers(&entry["spot_index"]).iter().map(|&i| i as usize).collect();
        let found: Vec<f64> = spots.iter().map(|&i| schedule.betas()[i]).collect();
        assert_close(&format!("{name} spots"), &found, &numbers(&entry["spot_betas_f64"]), 1e-12);
    }
}

pub(crate) fn timesteps() {
    let file = golden_json("schedules/timesteps.json");
    for row in cases(&file["rows"]) {
        let class = SchedulerClass::from_name(text(&row["class"])).expect("a known class");
        let fields = ["num_train_timesteps", "timestep_spacing", "steps_offset"];
        let config: BTreeMap<&str, &Value> =
            fields.into_iter().map(|key| (key, &row[key])).collect();
        let scheduler =
            Scheduler::new(class, serde_json::from_value(json!(config)).unwrap()).unwrap();
        let n = number(&row["num_inference_steps"]) as usize;
        let plan = scheduler.plan(&Steps::Count(n)).unwrap();
        let mut found: Vec<f64> = plan.steps().iter().map(|step| step.from.timestep).collect();
        if class == SchedulerClass::Heun {
            // The library lists both evaluations of a step.
            let doubled = found[1..].iter().flat_map(|&t| [t, t]);
            found = std::iter::once(found[0]).chain(doubled).collect();
        }
        let tolerance = if text(&row["dtype"]) == "float32" { 1e-4 } else { 0.0 };
        assert_close(
            &format!("timesteps of {row}"),
            &found,
            &numbers(&row["timesteps"]),
            tolerance,
        );
    }
}

pub(crate) fn forward_process() {
    let tensors = golden_tensors("training/training.safetensors");
    let (x0, noise) = (&tensors["x0"], &tensors["noise"]);
    for case in cases(&golden_json("training/training.json")["cases"]) {
        let id = text(&case["id"]);
        let schedule = schedule_of(&case["config"]);
        let timesteps: Vec<usize> =
            numbers(&case["timesteps"]).iter().map(|&t| t as usize).collect();
        let levels = Levels::at(&schedule, &timesteps, x0).unwrap();
        let close = |what: &str, found: &Tensor| {
            let expected = flat(&tensors[&format!("{id}/{what}")]);
            assert_close(&format!("{id} {what}"), &flat(found), &expected, 1e-5);
        };
        close("add_noise", &levels.add_noise(x0, noise).unwrap());
        close("velocity", &Parametrisation::VPrediction.target(x0, noise, &levels).unwrap());
        for (&t, expected) in timesteps.iter().zip(numbers(&case["snr_f64"])) {
            let snr = schedule.snr(t);
            assert!(
                (snr - expected).abs() <= 1e-10 * expected,
                "{id} snr at {t}: got {snr}, expected {expected}"
            );
        }
    }
}

pub(crate) fn posterior() {
    let tensors = golden_tensors("training/training.safetensors");
    for case in cases(&golden_json("training/training.json")["posterior"]) {
        let id = text(&case["id"]);
        let schedule = schedule_of(case);
        let close = |what: &str, of: &dyn Fn(usize) -> f64| {
            let expected = flat(&tensors[&format!("posterior/{id}/{what}")]);
            assert_eq!(expected.len(), schedule.len());
            for (i, reference) in expected.into_iter().enumerate() {
                let found = of(i);
                let allowed = 1e-10 + 1e-10 * reference.abs();
                assert!(
                    (found - reference).abs() <= allowed,
                    "{id} {what}[{i}]: {found}, expected {reference}"
                );
            }
        };
        close("posterior_variance", &|i| schedule.posterior(i).variance);
        close("posterior_log_variance_clipped", &|i| schedule.posterior_log_variance_clipped(i));
        close("posterior_mean_coef_x0", &|i| schedule.posterior(i).coef_x0);
        close("posterior_mean_coef_xt", &|i| schedule.posterior(i).coef_xt);
        let [x0, x_t, expected] = ["x0_f64", "x_t_f64", &format!("{id}/mean")]
            .map(|name| &tensors[&format!("posterior/{name}")]);
        for (row, t) in numbers(&case["timesteps"]).into_iter().enumerate() {
            let pick = |x: &Tensor| x.narrow(0, row, 1).unwrap();
            let t = t as usize;
            let to = if t == 0 { NoiseLevel::CLEAN } else { schedule.level(t - 1) };
            let Posterior { coef_x0, coef_xt, .. } = Posterior::between(&schedule.level(t), &to);
            let [x0, x_t] = [(x0, coef_x0), (x_t, coef_xt)]
                .map(|(x, factor)| pick(x).affine(factor, 0.0).unwrap());
            let mean = (x0 + x_t).unwrap();
            assert_close(&format!("{id} mean at {t}"), &flat(&mean), &flat(&pick(expected)), 1e-9);
        }
    }
}

/// The largest number of timesteps of a schedule whose calls of PNDM are compared. For larger ones,
/// only the timesteps at which its steps begin.
const LARGEST_OF_CALLS: usize = 100;

/// The timesteps of every scheduler class for all numbers of steps, by their hashes.
pub(crate) fn all_timesteps() {
    let json = golden_json("schedules/all_timesteps.json");
    let mut differences = Vec::new();
    for row in cases(&json["rows"]) {
        let total = number(&row["num_train_timesteps"]) as usize;
        let what = format!(
            "{} T={total} {} offset {}",
            text(&row["class"]),
            text(&row["timestep_spacing"]),
            row["steps_offset"]
        );
        let config = json!({
            "_class_name": row["class"], "num_train_timesteps": total,
            "timestep_spacing": row["timestep_spacing"], "steps_offset": row["steps_offset"],
        });
        let scheduler = Scheduler::from_json(&config.to_string()).unwrap();
        let found: Vec<u64> =
            (1..=total).map(|steps| hash_of_timesteps(&scheduler, total, steps)).collect();
        if let Some(expected) = row["hashes"].as_array() {
            let expected = expected.iter().map(|hash| hash.as_u64().unwrap());
            for (steps, (found, expected)) in (1..).zip(found.iter().zip(expected)) {
                if *found != expected {
                    differences.push(format!("{what} N={steps}"));
                }
            }
        } else if hash(found) != row["hash"].as_u64().unwrap() {
            differences.push(what);
        }
    }
    let shown = &differences[..differences.len().min(20)];
    assert!(differences.is_empty(), "{} differ: {shown:#?}", differences.len());
}

/// The hash of the timesteps of a plan; 0 if there is no such plan.
fn hash_of_timesteps(scheduler: &Scheduler, total: usize, steps: usize) -> u64 {
    let Ok(plan) = scheduler.plan(&Steps::Count(steps)) else { return 0 };
    let timesteps = if scheduler.class() == SchedulerClass::Pndm && total <= LARGEST_OF_CALLS {
        calls(scheduler, &plan)
    } else {
        plan.steps().iter().map(|step| step.from.timestep).collect()
    };
    hash(timesteps.into_iter().map(|t| u64::from((t as f32).to_bits())))
}

/// The timesteps at which the sampler of `scheduler` evaluates the network.
fn calls(scheduler: &Scheduler, plan: &SamplingPlan) -> Vec<f64> {
    let calls = RefCell::new(Vec::new());
    let denoiser = |x: &Tensor, level: NoiseLevel| {
        calls.borrow_mut().push(level.timestep);
        Ok(Prediction { x0: x.clone(), noise: x.clone(), variance: None })
    };
    let x = Tensor::zeros((1, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
    let mut sampler = scheduler.sampler(&StepArguments::default());
    let noise = |_| unreachable!("PNDM adds no noise");
    sample_from(x, &denoiser, &mut *sampler, plan, &noise, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    calls.into_inner()
}

/// A hash of numbers that depends on their order; `xtask/src/golden/timesteps.py` has the same.
fn hash(values: impl IntoIterator<Item = u64>) -> u64 {
    let sum = values.into_iter().enumerate().fold(0u64, |sum, (place, value)| {
        sum.wrapping_add(value.wrapping_add(1).wrapping_mul(2 * place as u64 + 1))
    });
    sum.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
