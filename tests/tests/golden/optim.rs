use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};
use diffusion_nn::Parameters;
use diffusion_tests::{
    assert_close, cases, device, flat, golden_json, golden_tensors, number, numbers, text,
};
use diffusion_train::{AdamW, AdamWConfig, Ema, EmaConfig, Gradients, LrDecay, LrSchedule};
use serde_json::Value;

pub(crate) fn adamw() {
    let tensors = golden_tensors("optim/adamw.safetensors");
    for case in cases(&golden_json("optim/adamw.json")["cases"]) {
        for (dtype, suffix, tolerance) in [(DType::F32, "f32", 1e-5), (DType::F64, "f64", 1e-10)] {
            adamw_case(case, &|name: &str| tensors[name].clone(), dtype, suffix, tolerance);
        }
    }
}

fn adamw_case(
    case: &Value,
    tensor: &dyn Fn(&str) -> Tensor,
    dtype: DType,
    suffix: &str,
    tolerance: f64,
) {
    let id = text(&case["id"]);
    let cast = |name: &str| tensor(name).to_dtype(dtype).unwrap();
    let (w, b) =
        (Var::from_tensor(&cast("w_init")).unwrap(), Var::from_tensor(&cast("b_init")).unwrap());
    let parameters =
        Parameters::from_vars([("w".to_owned(), w.clone()), ("b".to_owned(), b.clone())]);
    let (a, c) = (cast("A"), cast("c").unsqueeze(1).unwrap());
    let betas = numbers(&case["betas"]);
    let config = AdamWConfig {
        lr: number(&case["lr"]),
        beta1: betas[0],
        beta2: betas[1],
        eps: number(&case["eps"]),
        weight_decay: number(&case["weight_decay"]),
        muon: false,
    };
    let mut optimizer = AdamW::new(config, &parameters).unwrap();
    let lr_schedule = case["lr_schedule"].is_object().then(|| &case["lr_schedule"]);
    let expected = |name: &str, step: usize| {
        flat(&tensor(&format!("{id}/{name}_{suffix}")).get(step).unwrap())
    };
    for step in 0..=number(&case["steps"]) as usize {
        let agree = |name: &str, var: &Var| {
            let what = format!("{id} {suffix} {name} before step {step}");
            assert_close(&what, &flat(var), &expected(name, step), tolerance);
        };
        agree("w", &w);
        agree("b", &b);
        if step == number(&case["steps"]) as usize {
            break;
        }
        let theta = Tensor::cat(&[w.flatten_all().unwrap(), b.flatten_all().unwrap()], 0).unwrap();
        let theta = theta.unsqueeze(1).unwrap();
        let quadratic =
            (theta.t().unwrap().matmul(&a.matmul(&theta).unwrap()).unwrap() * 0.5).unwrap();
        let loss = (quadratic - c.t().unwrap().matmul(&theta).unwrap()).unwrap();
        let close_to = |what: &str, found: f64, relative: f64| {
            let reference = numbers(&case[format!("{what}_{suffix}")])[step];
            assert!(
                (found - reference).abs() <= relative * reference.abs().max(1.0),
                "{id} {what} {step}: {found}, expected {reference}"
            );
        };
        let relative = if dtype == DType::F32 { 1e-5 } else { 1e-12 };
        close_to("loss", flat(&loss)[0], relative);
        let mut gradients = Gradients::new(&parameters, loss.backward().unwrap());
        let norm = gradients.global_norm().unwrap();
        close_to("grad_norm_before_clip", norm, relative);
        if let Some(max_norm) = case["clip_grad_norm"].as_f64() {
            gradients.clip(norm, max_norm);
        }
        let lr = lr_schedule.map_or(config.lr, |schedule| lr_of(schedule, config.lr, step as u64));
        assert_close(&format!("{id} lr {step}"), &[lr], &[numbers(&case["lr_used"])[step]], 1e-12);
        optimizer.update(&parameters, &gradients, lr, None).unwrap();
    }
}

/// The learning rate of update number `step` under a schedule of the golden files.
fn lr_of(case: &Value, base_lr: f64, step: u64) -> f64 {
    let whole = |field: &str| case[field].as_u64().unwrap_or(0);
    let decay = match text(&case["name"]) {
        "constant" | "constant_with_warmup" => LrDecay::Constant,
        "linear" => LrDecay::Linear,
        "cosine" => {
            assert_eq!(case["half_cycles"].as_f64().unwrap_or(0.5), 0.5);
            LrDecay::Cosine
        }
        "cosine_with_restarts" => {
            LrDecay::CosineWithRestarts { num_cycles: whole("num_cycles") as u32 }
        }
        "polynomial" => {
            LrDecay::Polynomial { power: number(&case["power"]), lr_end: number(&case["lr_end"]) }
        }
        other => panic!("unknown learning-rate schedule `{other}`"),
    };
    let schedule = LrSchedule { warmup_steps: whole("num_warmup_steps"), decay };
    schedule.lr(base_lr, step, schedule.progress(step, whole("num_training_steps")))
}

pub(crate) fn learning_rates() {
    for case in cases(&golden_json("optim/lr.json")["cases"]) {
        let base_lr = number(&case["base_lr"]);
        for (step, expected) in numbers(&case["lr_at_step_0_to_100"]).into_iter().enumerate() {
            let found = lr_of(case, base_lr, step as u64);
            assert!(
                (found - expected).abs() <= 1e-12 * base_lr,
                "{} at {step}: got {found}, expected {expected}",
                case["name"]
            );
        }
    }
}

pub(crate) fn ema() {
    let tensors = golden_tensors("optim/ema.safetensors");
    for case in cases(&golden_json("optim/ema.json")["cases"]) {
        let id = text(&case["id"]);
        let config = EmaConfig {
            decay: number(&case["decay"]),
            min_decay: number(&case["min_decay"]),
            update_after_step: number(&case["update_after_step"]) as u64,
            use_ema_warmup: case["use_ema_warmup"].as_bool().unwrap(),
            inv_gamma: number(&case["inv_gamma"]),
            power: number(&case["power"]),
        };
        let decays: Vec<f64> = (0..=100).map(|step| config.decay_at(step)).collect();
        assert_close(
            &format!("{id} decay"),
            &decays,
            &numbers(&case["decay_for_optimization_step_0_to_100"]),
            1e-12,
        );
        let later: BTreeMap<u64, f64> = numbers(&case["later_steps"])
            .into_iter()
            .map(|step| step as u64)
            .zip(numbers(&case["decay_at_later_steps"]))
            .collect();
        for (step, decay) in later {
            assert_close(
                &format!("{id} decay at {step}"),
                &[config.decay_at(step)],
                &[decay],
                1e-12,
            );
        }

        let tensor = |name: &str| tensors[&format!("{id}/{name}")].to_device(&device()).unwrap();
        let var = Var::from_tensor(&tensor("init")).unwrap();
        let parameters = Parameters::from_vars([("p".to_owned(), var.clone())]);
        let ema = Ema::new(config, &parameters).unwrap();
        let mut optimizer = AdamW::new(AdamWConfig::default(), &parameters).unwrap();
        let (params, shadow) = (tensor("params"), tensor("shadow"));
        for update in 0..params.dim(0).unwrap() {
            let weights = params.get(update).unwrap();
            var.set(&weights).unwrap();
            // The optimiser updates the averages. With a learning rate of 0 it does not change the
            // weights.
            let gradients = Gradients::new(&parameters, var.sum_all().unwrap().backward().unwrap());
            optimizer.update(&parameters, &gradients, 0.0, Some(&ema)).unwrap();
            assert_eq!(flat(&var), flat(&weights), "{id} weights after update {update}");
            let expected = flat(&shadow.get(update).unwrap());
            let atol = number(&case["atol_shadow"]);
            assert_close(
                &format!("{id} after update {update}"),
                &flat(&ema.tensors()["p"]),
                &expected,
                atol,
            );
        }
    }
}
