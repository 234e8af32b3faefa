//! The trainer: determinism, exact resume, gradient accumulation, and errors.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use candle_core::{Device, Tensor};
use diffusion_data::ImageDataset;
use diffusion_model::{LoadedModel, Weights};
use diffusion_process::PredictionType;
use diffusion_train::{
    Checkpoint, Checks, ConfigSource, LrDecay, Outcome, PowerProfile, RunDir, SavedAverages,
    TrainConfig, TrainError, TrainEvent, Trainer, run,
};
use diffusion_unet::{NetworkConfig, SimpleUNetConfig};

/// Bars and squares that a short training can learn.
fn pictures() -> ImageDataset {
    let pixels = (0..40).flat_map(|i: usize| {
        (0..64).map(move |p| if (p / 8 + i) % 5 < 2 || (p % 8) == i % 8 { 255 } else { 0 })
    });
    ImageDataset::new(pixels.collect(), None, [1, 8, 8]).unwrap()
}

fn config(steps: u64) -> TrainConfig {
    let mut config = TrainConfig::preset("mnist").unwrap();
    config.network = NetworkConfig::SimpleUnet(SimpleUNetConfig {
        in_channels: 1,
        base_channels: 16,
        time_dim: 16,
        ..SimpleUNetConfig::default()
    });
    (config.steps, config.max_minutes) = (Some(steps), None);
    config.batch_size = 8;
    config.sample_grid.num = 0;
    config
}

fn train(config: &TrainConfig, data: &ImageDataset) -> (Trainer, Vec<f64>) {
    let mut trainer = config.trainer(data, &Device::Cpu).unwrap();
    let mut losses = vec![];
    while !trainer.is_finished() {
        losses.push(trainer.step().unwrap().loss);
    }
    (trainer, losses)
}

fn bytes(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Vec<u32>> {
    let bits = |t: &Tensor| {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    tensors.iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
}

fn all_bytes(trainer: &Trainer) -> [BTreeMap<String, Vec<u32>>; 3] {
    let checkpoint = trainer.checkpoint().unwrap();
    [bytes(&checkpoint.model), bytes(&checkpoint.ema), bytes(&checkpoint.optimizer)]
}

/// Every file of a folder by name.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[test]
fn the_loss_falls() {
    let data = pictures();
    let config = TrainConfig { prediction_type: PredictionType::Epsilon, ..config(60) };
    let (_, losses) = train(&config, &data);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[50..]) < 0.6 * mean(&losses[..5]), "{losses:?}");
}

#[test]
fn the_same_seed_gives_the_same_training_and_another_seed_another() {
    let data = pictures();
    let run = |seed| {
        let config = TrainConfig { seed, ..config(5) };
        let (trainer, losses) = train(&config, &data);
        (all_bytes(&trainer), losses)
    };
    assert!(run(1) == run(1));
    assert_ne!(run(1).1, run(2).1);
}

#[test]
fn resumed_training_equals_uninterrupted_training() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(20);
    config.checkpoint.averages = 4;
    let (whole, _) = train(&config, &data);

    let half_dir = RunDir::create(&folder.path().join("half"), &config).unwrap();
    let mut half = config.trainer(&data, &Device::Cpu).unwrap();
    let mut stop_at_10 = |event: TrainEvent<'_>| match event {
        TrainEvent::Step(metrics) if metrics.step == 10 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    assert_eq!(
        run(&mut half, &half_dir, &Checks::default(), &mut stop_at_10).unwrap(),
        Outcome::Interrupted
    );
    assert_eq!(half.steps_done(), 10);
    drop(half);

    let path = half_dir.layout().latest_checkpoint().unwrap();
    let mut resumed = half_dir.read_config().unwrap().trainer(&data, &Device::Cpu).unwrap();
    Checkpoint::read(&path, &Device::Cpu).unwrap().restore_into(&mut resumed, &path).unwrap();
    assert_eq!(
        run(&mut resumed, &half_dir, &Checks::default(), &mut |_| ControlFlow::Continue(()))
            .unwrap(),
        Outcome::Finished
    );
    assert!(all_bytes(&resumed) == all_bytes(&whole));

    let whole_path = folder.path().join("whole");
    whole.checkpoint().unwrap().write(&whole_path).unwrap();
    let (mut a, mut b) =
        (files(&whole_path), files(&half_dir.layout().latest_checkpoint().unwrap()));
    // The state also holds the training time, which differs between runs.
    let state = |files: &mut BTreeMap<String, Vec<u8>>| {
        let mut json: serde_json::Value =
            serde_json::from_slice(&files.remove("checkpoint.json").unwrap()).unwrap();
        json.as_object_mut().unwrap().remove("elapsed_seconds").unwrap();
        json
    };
    assert_eq!(state(&mut a), state(&mut b));
    assert_eq!(a.len(), 4);
    assert!(a == b, "the files of tensors differ");

    // The length of an average that was saved gives that average again.
    let saved = SavedAverages::open(half_dir.layout(), 20).unwrap();
    assert_eq!(saved.steps(), [4, 8, 12, 20]);
    let known = whole.checkpoint().unwrap().averages.unwrap();
    for (name, average) in saved.average(PowerProfile::LENGTHS[1]).unwrap().0 {
        let difference = (average - &known[&format!("1/{name}")]).unwrap();
        let largest = difference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(largest < 2e-3, "{name}: {largest}");
    }
    assert_eq!(SavedAverages::open(half_dir.layout(), 11).unwrap().steps(), [4, 8]);
    assert!(SavedAverages::open(half_dir.layout(), 3).is_err());

    let metrics = fs::read_to_string(half_dir.path().join("metrics.jsonl")).unwrap();
    let steps: Vec<u64> = metrics
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(steps, (1..=20).collect::<Vec<_>>());
}

#[test]
fn accumulated_parts_equal_the_big_batch_within_rounding() {
    let data = pictures();
    let tensors = |accumulate| {
        let config = TrainConfig { accumulate, ..config(3) };
        train(&config, &data).0.checkpoint().unwrap().model
    };
    let (whole, parts) = (tensors(1), tensors(4));
    for (name, tensor) in &whole {
        let difference = (tensor - &parts[name])
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        // Adam divides by the gradient's size, so rounding of a tiny gradient can move a weight by
        // a part of the learning rate.
        assert!(difference < 2e-4, "{name}: {difference}");
    }
    let bad = TrainConfig { accumulate: 3, ..config(1) };
    let error = bad.trainer(&data, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("accumulate is 3; it must divide batch_size, which is 8"), "{error}");
}

/// The division of a batch determines the bits, and the number of threads does not.
#[test]
fn parallel_parts_give_the_same_bits_with_any_number_of_threads() {
    let data = pictures();
    let train_with = |parallel_parts: usize, threads: usize| {
        let config = TrainConfig { parallel_parts, batch_size: 7, ..config(3) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train(&config, &data))
    };
    let (whole, whole_losses) = train_with(1, 1);
    for parts in [2, 3, 7, 20] {
        let (one_thread, losses) = train_with(parts, 1);
        for threads in [2, 4] {
            let (trainer, other) = train_with(parts, threads);
            assert_eq!(other, losses, "{parts} parts, {threads} threads");
            assert!(all_bytes(&trainer) == all_bytes(&one_thread), "{parts} parts");
        }
        for (loss, whole) in losses.iter().zip(&whole_losses) {
            assert!((loss - whole).abs() < 1e-4, "{parts} parts: {loss} instead of {whole}");
        }
    }
    assert!(all_bytes(&train_with(1, 3).0) == all_bytes(&whole));
    let bad = TrainConfig { parallel_parts: 0, ..config(1) };
    let error = bad.trainer(&data, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("parallel_parts is 0; it must be at least 1"), "{error}");
}

#[test]
fn a_diverged_training_names_the_tensor_the_step_the_rate_and_the_checkpoint() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(50);
    config.checkpoint.every = 2;
    let run_dir = RunDir::create(&folder.path().join("run"), &config).unwrap();
    let mut trainer = config.trainer(&data, &Device::Cpu).unwrap();
    for _ in 0..4 {
        trainer.step().unwrap();
    }
    let before = trainer.checkpoint().unwrap();
    before.write(&run_dir.layout().checkpoint(4)).unwrap();
    fs::write(run_dir.path().join("latest"), "step-0000004\n").unwrap();
    let (_, var) =
        trainer.parameters().iter().find(|(name, _)| *name == "mid.conv1.2.bias").unwrap();
    var.set(&var.affine(0.0, f64::NAN).unwrap()).unwrap();
    let error = run(&mut trainer, &run_dir, &Checks::default(), &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert!(matches!(&error, TrainError::NotFinite { step: 4, .. }));
    let text = error.to_string();
    for part in ["step 4", "`mid.conv1.2.bias`", "learning rate", "step-0000004"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn checkpoints_of_another_model_configuration_or_data_are_refused() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let base = config(2);
    train(&base, &data).0.checkpoint().unwrap().write(&path).unwrap();
    let refuse = |config: &TrainConfig, data: &ImageDataset| {
        let mut trainer = config.trainer(data, &Device::Cpu).unwrap();
        Checkpoint::read(&path, &Device::Cpu)
            .unwrap()
            .restore_into(&mut trainer, &path)
            .unwrap_err()
            .to_string()
    };
    let mut wider = base.clone();
    wider.network = NetworkConfig::SimpleUnet(SimpleUNetConfig {
        in_channels: 1,
        base_channels: 24,
        time_dim: 16,
        ..SimpleUNetConfig::default()
    });
    assert!(refuse(&wider, &data).contains("another model"));
    let mut faster = base.clone();
    faster.optimizer.lr *= 2.0;
    assert!(refuse(&faster, &data).contains("config.toml was changed"));
    let other = ImageDataset::new(vec![9; 40 * 64], None, [1, 8, 8]).unwrap();
    assert!(refuse(&base, &other).contains("other data"));

    let state = path.join("checkpoint.json");
    let text = fs::read_to_string(&state).unwrap();
    for (from, to) in [
        ("\"step\": 2", "\"step\": 3"),
        ("\"seed\": 0", "\"seed\": 5"),
        ("\"epoch\": 0", "\"epoch\": 18446744073709551615"),
    ] {
        fs::write(&state, text.replace(from, to)).unwrap();
        assert!(refuse(&base, &data).contains("do not belong together"), "{to}");
    }
    fs::write(&state, &text).unwrap();

    // The length, the checkpoints and the grids may differ.
    let mut longer = base;
    (longer.steps, longer.checkpoint.every, longer.sample_grid.every) = (Some(9), 7, 3);
    let mut trainer = longer.trainer(&data, &Device::Cpu).unwrap();
    Checkpoint::read(&path, &Device::Cpu).unwrap().restore_into(&mut trainer, &path).unwrap();
    assert_eq!(trainer.steps_done(), 2);
}

#[test]
fn damaged_checkpoints_are_named() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    train(&config(1), &data).0.checkpoint().unwrap().write(&path).unwrap();
    let message = || match LoadedModel::open(&path, Weights::Ema, &Device::Cpu) {
        Ok(_) => panic!("a damaged checkpoint was accepted"),
        Err(e) => e.to_string(),
    };
    let damage = |file: &str, edit: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let file = path.join(file);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, edit(whole.clone())).unwrap();
        let message = message();
        fs::write(&file, whole).unwrap();
        message
    };
    let cut = damage("ema.safetensors", &|bytes| bytes[..bytes.len() / 2].to_vec());
    assert!(cut.contains("ema.safetensors: not a whole safetensors file"), "{cut}");
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(from, to).into_bytes()
    };
    let version =
        damage("checkpoint.json", &replace("\"format_version\": 1", "\"format_version\": 99"));
    assert!(version.contains("format version 99; this program reads version 1"), "{version}");
    let shape =
        damage("checkpoint.json", &replace("\"base_channels\": 16", "\"base_channels\": 24"));
    assert!(shape.contains("ema.safetensors") && shape.contains("the network needs"), "{shape}");
    let range = damage("checkpoint.json", &|bytes| {
        String::from_utf8(bytes).unwrap().replace("-1.0,", "0.0,").into_bytes()
    });
    assert!(range.contains("data_range is [0.0, 1.0]"), "{range}");
    let huge = damage(
        "checkpoint.json",
        &replace("\"num_train_timesteps\": 200", "\"num_train_timesteps\": 1000000000000000000"),
    );
    assert!(
        huge.contains("num_train_timesteps is 1000000000000000000; it must be at most"),
        "{huge}"
    );
    let shape = damage("checkpoint.json", &|bytes| {
        let text = String::from_utf8(bytes).unwrap().replace(char::is_whitespace, "");
        text.replace("\"image_shape\":[1,8,8]", "\"image_shape\":[1,4000000000,8]").into_bytes()
    });
    assert!(shape.contains("image_shape is [1, 4000000000, 8]"), "{shape}");
    let garbage = damage("checkpoint.json", &|_| b"{".to_vec());
    assert!(garbage.contains("not a checkpoint's state"), "{garbage}");
    fs::remove_file(path.join("checkpoint.json")).unwrap();
    assert!(message().contains("this is not a checkpoint"));
}

#[test]
fn a_run_folder_keeps_the_newest_checkpoints_and_clears_leftovers() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(9);
    (config.checkpoint.every, config.checkpoint.keep) = (2, 2);
    let run_dir = RunDir::create(&folder.path().join("run"), &config).unwrap();
    // Files that killed processes leave: an incomplete checkpoint, a complete one that never became
    // `latest`, an incomplete picture.
    for name in [
        "checkpoints/.partial-step-0000003",
        "checkpoints/step-0000123",
        "samples/.partial-step-0000002.png",
    ] {
        fs::create_dir_all(run_dir.path().join(name)).unwrap();
    }
    let path = run_dir.path().to_owned();
    drop(run_dir);
    let run_dir = RunDir::resume(&path).unwrap();
    let mut trainer = config.trainer(&data, &Device::Cpu).unwrap();
    run(&mut trainer, &run_dir, &Checks::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    let mut left: Vec<String> = fs::read_dir(run_dir.path().join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["step-0000008", "step-0000009"]);
    assert!(run_dir.layout().latest_checkpoint().unwrap().ends_with("step-0000009"));
    drop(run_dir);
    assert!(
        RunDir::create(&path, &config).unwrap_err().to_string().contains("already holds a run")
    );
}

#[test]
fn two_processes_cannot_train_in_one_folder() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let first = RunDir::create(&path, &config(1)).unwrap();
    for second in [RunDir::resume(&path), RunDir::create(&path, &config(1))] {
        assert!(
            second.unwrap_err().to_string().contains("another process is training in this folder")
        );
    }
    // A folder opened for reading cannot be trained in.
    let reading = RunDir::open(&path).unwrap();
    let mut trainer = config(1).trainer(&data, &Device::Cpu).unwrap();
    assert!(
        run(&mut trainer, &reading, &Checks::default(), &mut |_| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string()
            .contains("for reading only")
    );
    drop(first);
    let resumed = RunDir::resume(&path).unwrap();
    assert_eq!(
        run(&mut trainer, &resumed, &Checks::default(), &mut |_| ControlFlow::Continue(()))
            .unwrap(),
        Outcome::Finished
    );
}

#[test]
fn a_time_limit_ends_the_training_and_the_learning_rate() {
    let data = pictures();
    let mut config = config(1);
    (config.steps, config.max_minutes, config.lr_schedule.decay) =
        (None, Some(2.0), LrDecay::Linear);
    config.lr_schedule.warmup_steps = 0;
    let mut trainer = config.trainer(&data, &Device::Cpu).unwrap();
    for (seconds, share) in [(0, 1.0), (30, 0.75), (90, 0.25), (119, 1.0 / 120.0)] {
        trainer.set_elapsed(Duration::from_secs(seconds));
        assert!(!trainer.is_finished());
        let lr = trainer.step().unwrap().lr;
        assert!((lr - share * config.optimizer.lr).abs() < 1e-12, "{seconds}: {lr}");
    }
    trainer.set_elapsed(Duration::from_mins(2));
    assert!(trainer.is_finished());
}

#[test]
fn configurations_layer_and_explain_their_errors() {
    let layered = |text: &str| {
        TrainConfig::layered(
            "mnist",
            Some(&ConfigSource { path: "my.toml".into(), text: text.to_owned() }),
        )
    };
    let config = layered("steps = 7\n[optimizer]\nlr = 0.5\n").unwrap();
    assert_eq!((config.steps, config.max_minutes, config.optimizer.lr), (Some(7), None, 0.5));
    assert_eq!(config.optimizer.beta2, 0.999);
    assert_eq!(config.ema.decay, TrainConfig::preset("mnist").unwrap().ema.decay);
    assert_eq!(
        layered("[network]\nbase_channels = 48\n").unwrap().network,
        NetworkConfig::SimpleUnet(SimpleUNetConfig {
            in_channels: 1,
            base_channels: 48,
            time_dim: 128,
            ..SimpleUNetConfig::default()
        })
    );

    let error = |text: &str| layered(text).unwrap_err().to_string();
    let typo = error("seed = 1\nbach_size = 3\n");
    assert!(
        typo.contains("my.toml:2") && typo.contains("`bach_size`; did you mean `batch_size`?"),
        "{typo}"
    );
    let nested = error("\n\n[optimizer]\nlearning_rate = 3\n");
    assert!(
        nested.contains("my.toml:4") && nested.contains("`learning_rate`") && nested.contains("lr"),
        "{nested}"
    );
    assert!(error("seed = \n").contains("my.toml:1"));
    assert!(error("prediction_type = \"v_predicton\"").contains("did you mean `v_prediction`?"));
    for (text, expected) in [
        (
            "steps = 3\nbatch_size = \"x\"\n",
            "my.toml:2: batch_size: expected a whole number of at least 0, got string \"x\"",
        ),
        ("seed = -1\n", "my.toml:1: seed: expected a whole number of at least 0, got integer `-1`"),
        (
            "[optimizer]\nlr = true\n",
            "my.toml:2: optimizer.lr: expected a number, got boolean `true`",
        ),
        (
            "[lr_schedule]\ndecay = \"cosine\"\n",
            "my.toml:2: lr_schedule.decay: expected a table with the key `kind`, got string \"cosine\"",
        ),
        ("[loss]\nerror = { kind = \"huber\" }\n", "loss.error: the key `delta` is missing"),
    ] {
        assert!(error(text).contains(expected), "{}", error(text));
    }
    let field = |text: &str| layered(text).unwrap().validate().unwrap_err().to_string();
    assert!(field("steps = 0").contains("steps is 0; it must be at least 1"));
    assert!(field("[optimizer]\nlr = nan").contains("optimizer.lr is NaN"));
    assert!(
        field("[schedule]\nbeta_schedule = \"linear\"\nbeta_end = 2.0").contains("beta_end is 2")
    );
    assert!(
        error("[schedule]\nbeta_end = 0.1")
            .contains("my.toml: schedule.beta_end is not supported by the cosine schedule")
    );
    assert!(field("[sample_grid]\nsteps = 0").contains("sample_grid.steps is 0"));
    assert!(
        TrainConfig::preset("minst")
            .unwrap_err()
            .to_string()
            .contains("the presets are mnist, digits-attn, colour-32, cifar10, tutorial")
    );

    let preset = TrainConfig::preset("tutorial").unwrap();
    let text = preset.to_toml().unwrap();
    assert_eq!(
        TrainConfig::from_source(&ConfigSource { path: "saved".into(), text }).unwrap(),
        preset
    );
}
