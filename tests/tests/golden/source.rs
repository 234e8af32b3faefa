use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use candle_core::{DType, Tensor, Var};
use diffusion_nn::{Parameters, TimestepEmbedding};
use diffusion_process::{Levels, Network, NetworkDenoiser, Parametrisation};
use diffusion_sample::{Ddpm, Progress, VarianceType, sample_from};
use diffusion_schedule::{SamplingPlan, ScheduleConfig};
use diffusion_tests::{
    assert_close, cases, device, flat, golden_json, golden_tensors, number, numbers, text,
};
use diffusion_train::{AdamW, AdamWConfig, Gradients};
use diffusion_unet::{SimpleUNet, SimpleUNetConfig};
use serde_json::Value;

pub(crate) fn timestep_embedding() {
    let file = golden_json("embedding/timestep_embedding.json");
    let tensors = golden_tensors("embedding/timestep_embedding.safetensors");
    let timesteps: Vec<f32> = numbers(&file["timesteps"]).iter().map(|&t| t as f32).collect();
    let timesteps = Tensor::new(timesteps, &device()).unwrap();
    for case in cases(&file["cases"]) {
        let id = text(&case["id"]);
        assert_eq!((number(&case["scale"]), number(&case["max_period"])), (1.0, 10_000.0), "{id}");
        let dim = number(&case["embedding_dim"]) as usize;
        let cosine_first = case["flip_sin_to_cos"].as_bool().unwrap();
        let shift = number(&case["downscale_freq_shift"]);
        let found =
            TimestepEmbedding::new(dim, cosine_first, shift).unwrap().forward(&timesteps).unwrap();
        for table in ["f32", "f64"] {
            let expected = flat(&tensors[&format!("{id}/{table}")]);
            assert_close(&format!("{id} {table}"), &flat(&found), &expected, number(&case["atol"]));
        }
    }
}

/// One case of the folder `source`: the network with the given weights.
struct Case<'a> {
    json: &'a Value,
    tensors: &'a HashMap<String, Tensor>,
    unet: SimpleUNet,
    parameters: Parameters,
}

impl<'a> Case<'a> {
    fn new(json: &'a Value, tensors: &'a HashMap<String, Tensor>) -> Self {
        let size = |field: &str| number(&json[field]) as usize;
        let config = SimpleUNetConfig {
            in_channels: size("in_channels"),
            base_channels: size("base_channels"),
            time_dim: size("time_dim"),
            ..SimpleUNetConfig::default()
        };
        let (unet, parameters) =
            Parameters::initialise(0, &device(), |vb| SimpleUNet::new(&config, vb)).unwrap();
        assert_eq!(parameters.count(), size("parameters"));
        let case = Self { json, tensors, unet, parameters };
        case.parameters.load(&case.all_below("weights/")).unwrap();
        case
    }

    fn name(&self) -> &str {
        text(&self.json["name"])
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.tensors[&format!("{}/{name}", self.name())].clone()
    }

    fn all_below(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let prefix = format!("{}/{prefix}", self.name());
        let named = |(key, tensor): (&String, &Tensor)| {
            Some((key.strip_prefix(&prefix)?.to_owned(), tensor.clone()))
        };
        self.tensors.iter().filter_map(named).collect()
    }

    fn close(&self, what: &str, found: &Tensor, expected: &Tensor, tolerance: &str) {
        assert_eq!(found.dims(), expected.dims(), "{} {what}", self.name());
        let tolerance = number(&self.json[tolerance]);
        assert_close(&format!("{} {what}", self.name()), &flat(found), &flat(expected), tolerance);
    }
}

fn for_each_case(check: impl Fn(Case<'_>)) {
    let tensors = golden_tensors("source/simple_unet.safetensors");
    for json in cases(&golden_json("source/simple_unet.json")["cases"]) {
        check(Case::new(json, &tensors));
    }
}

fn as_f32(timesteps: &Tensor) -> Tensor {
    timesteps.to_dtype(DType::F32).unwrap()
}

pub(crate) fn forward_and_gradients() {
    for_each_case(|case| {
        let x = Var::from_tensor(&case.tensor("x")).unwrap();
        let t = as_f32(&case.tensor("t"));
        let embedded = case.unet.embed_time(&t).unwrap();
        case.close("time_embedding", &embedded, &case.tensor("time_embedding"), "atol_output");
        let output = case.unet.forward(&x, &t).unwrap();
        case.close("output", &output, &case.tensor("output"), "atol_output");

        let gradients = output.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        let agree = |name: &str, found: &Tensor, expected: &Tensor| {
            let largest = flat(expected).iter().fold(0f64, |m, g| m.max(g.abs()));
            let allowed = number(&case.json["atol_grad_relative_to_max_abs_grad"]) * largest
                + number(&case.json["atol_grad_floor"]);
            assert_close(
                &format!("{} gradient of {name}", case.name()),
                &flat(found),
                &flat(expected),
                allowed,
            );
        };
        agree("x", gradients.get(&x).unwrap(), &case.tensor("grad_x"));
        let expected = case.all_below("grad/");
        assert_eq!(expected.len(), case.parameters.iter().count());
        for (name, var) in case.parameters.iter() {
            agree(name, gradients.get(var).unwrap(), &expected[name]);
        }
    });
}

pub(crate) fn training_and_sampling() {
    for_each_case(|case| {
        train(&case);
        sample(&case);
    });
}

fn schedule_config(settings: &Value) -> ScheduleConfig {
    ScheduleConfig {
        num_train_timesteps: number(&settings["T"]) as usize,
        beta_start: number(&settings["beta_start"]),
        beta_end: number(&settings["beta_end"]),
        ..Default::default()
    }
}

fn train(case: &Case<'_>) {
    let settings = &case.json["train"];
    let schedule = schedule_config(settings).build().unwrap();
    let betas = numbers(&settings["betas"]);
    let config = AdamWConfig {
        lr: number(&settings["lr"]),
        beta1: betas[0],
        beta2: betas[1],
        eps: number(&settings["eps"]),
        weight_decay: number(&settings["weight_decay"]),
        muon: false,
    };
    let mut optimizer = AdamW::new(config, &case.parameters).unwrap();
    let [x0, noise, t] = ["x0", "noise", "t"].map(|name| case.tensor(&format!("train/{name}")));
    for (step, expected_loss) in numbers(&settings["losses"]).into_iter().enumerate() {
        let [x0, noise, t] = [&x0, &noise, &t].map(|tensor| tensor.get(step).unwrap());
        let indices: Vec<usize> = flat(&t).iter().map(|&t| t as usize).collect();
        let levels = Levels::at(&schedule, &indices, &x0).unwrap();
        let output =
            case.unet.forward(&levels.add_noise(&x0, &noise).unwrap(), &as_f32(&t)).unwrap();
        let target = Parametrisation::Epsilon.target(&x0, &noise, &levels).unwrap();
        let loss = (output - target).unwrap().sqr().unwrap().mean_all().unwrap();
        let what = format!("{} loss of step {step}", case.name());
        assert_close(&what, &flat(&loss), &[expected_loss], number(&case.json["atol_losses"]));
        let gradients = Gradients::new(&case.parameters, loss.backward().unwrap());
        optimizer.update(&case.parameters, &gradients, config.lr, None).unwrap();
    }
    let trained = case.parameters.tensors();
    let expected = case.all_below("trained/");
    assert!(!expected.is_empty());
    for (name, expected) in &expected {
        case.close(&format!("trained {name}"), &trained[name], expected, "atol_trained");
    }
}

fn sample(case: &Case<'_>) {
    let settings = &case.json["sample"];
    assert_eq!((text(&settings["sigma"]), &settings["clip"]), ("sqrt(beta)", &Value::Bool(false)));
    let schedule = schedule_config(settings).build().unwrap();
    let noise = case.tensor("sample/noise");
    let (plan, last) = (SamplingPlan::from_schedule(&schedule), schedule.len() - 1);
    let mut sampler = Ddpm { variance: VarianceType::FixedLarge };
    let denoiser = NetworkDenoiser::new(&case.unet, Parametrisation::Epsilon);
    let mut states = HashMap::new();
    let mut record = |progress: Progress<'_>| {
        states.insert(progress.steps - progress.done, progress.x.clone());
        ControlFlow::Continue(())
    };
    let noise_of = |number: usize| noise.get(last - number);
    sample_from(case.tensor("sample/x_T"), &denoiser, &mut sampler, &plan, &noise_of, &mut record)
        .unwrap();
    let expected = case.tensor("sample/x");
    for (row, t) in numbers(&settings["kept_t"]).into_iter().enumerate() {
        let found = &states[&(t as usize)];
        case.close(
            &format!("sample after step {t}"),
            found,
            &expected.get(row).unwrap(),
            "atol_sample",
        );
    }
}
