use std::fs;

use crate::common::{TestDir, names};

const TENSORS: [&str; 3] = ["ema.safetensors", "model.safetensors", "optimizer.safetensors"];

#[test]
fn training_leaves_a_run_folder_and_says_what_comes_next() {
    let place = TestDir::new();
    place.small_config();
    place.write(
        "grid.toml",
        fs::read_to_string(place.path("small.toml"))
            .unwrap()
            .replace("num = 0", "num = 5\nevery = 2"),
    );
    let answer = place.ok("train --config grid.toml");
    for part in [
        "trained 4 steps",
        "runs/mnist-1/samples/step-0000004.png",
        "diffusion sample --run runs/mnist-1",
    ] {
        assert!(answer.out.replace('\\', "/").contains(part), "{part} is not in: {}", answer.out);
    }
    let run = place.path("runs/mnist-1");
    let expected = [
        "checkpoints",
        "config.toml",
        "index.html",
        "latest",
        "lock",
        "loss.png",
        "metrics.jsonl",
        "samples",
        "samples.gif",
    ];
    assert_eq!(names(&run), expected);
    assert_eq!(names(&run.join("samples")), ["step-0000002.png", "step-0000004.png"]);
    assert_eq!(fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().count(), 4);
    place.ok("train --config small.toml");
    assert_eq!(names(&place.path("runs")), ["mnist-1", "mnist-2"]);
}

#[test]
fn resuming_equals_training_in_one_go_byte_for_byte() {
    let place = TestDir::new();
    place.train_small("whole", 20);
    place.train_small("parts", 10);
    place.ok("train --run-dir parts --resume --steps 20");
    for name in TENSORS {
        let read = |run: &str| {
            fs::read(place.path(run).join("checkpoints/step-0000020").join(name)).unwrap()
        };
        assert!(read("whole") == read("parts"), "{name} differs");
    }
    assert_eq!(fs::read_to_string(place.path("parts/metrics.jsonl")).unwrap().lines().count(), 20);
}

#[test]
fn training_does_not_depend_on_the_number_of_threads() {
    let place = TestDir::new();
    place.small_config();
    place.ok("train --config small.toml --run-dir one --threads 1");
    place.ok("train --config small.toml --run-dir two --threads 2");
    for name in TENSORS {
        let read = |run: &str| {
            fs::read(place.path(run).join("checkpoints/step-0000004").join(name)).unwrap()
        };
        assert!(read("one") == read("two"), "{name} differs");
    }
}

/// CUDA and Metal use candle's operations; Winograd's method needs at least 32 channels.
#[test]
fn training_has_the_same_loss_with_the_kernels_and_with_candle() {
    let place = TestDir::new();
    place.small_config();
    let config = fs::read_to_string(place.path("small.toml")).unwrap();
    place.write(
        "wide.toml",
        config.replace("size = 8", "size = 12").replace("base_channels = 16", "base_channels = 32"),
    );
    let losses = |kernels: &str| -> Vec<f64> {
        let line = format!("train --config wide.toml --run-dir {kernels} --steps 200 --lr 1e-3");
        let output = place.command(&line).env("DIFFUSION_KERNELS", kernels).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metrics = fs::read_to_string(place.path(kernels).join("metrics.jsonl")).unwrap();
        let loss = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap()
        };
        metrics.lines().map(loss).collect()
    };
    let plain = losses("slow");
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    for kernels in ["best", "avx2", "portable"] {
        let losses = losses(kernels);
        assert_eq!(losses.len(), 200);
        for (step, (a, b)) in losses.iter().zip(&plain).take(20).enumerate() {
            assert!((a - b).abs() < 1e-4 * b, "{kernels}, step {step}: {a} and {b}");
        }
        // Rounding errors grow from step to step, but not into another loss.
        let (a, b) = (mean(&losses[150..]), mean(&plain[150..]));
        assert!((a - b).abs() < 0.01 * b, "{kernels}: {a} and {b} at the end");
    }
}

#[test]
fn flags_override_the_file_and_the_file_overrides_the_preset() {
    let place = TestDir::new();
    place.small_config();
    place
        .ok("train --config small.toml --run-dir run --lr 0.25 --seed 9 --batch-size 2 --epochs 1 --steps 3");
    let config = fs::read_to_string(place.path("run/config.toml")).unwrap();
    for line in [
        "lr = 0.25",
        "seed = 9",
        "batch_size = 2",
        "epochs = 1",
        "steps = 3",
        "base_channels = 16",
        "decay = 0.995",
    ] {
        assert!(config.contains(line), "{line} is not in:\n{config}");
    }
    assert!(!config.contains("max_minutes"), "{config}");
}

#[test]
fn the_tutorial_warns_that_its_schedule_does_not_end_in_noise() {
    let place = TestDir::new();
    place.write(
        "tiny.toml",
        "size = 8\nbatch_size = 2\n[network]\nbase_channels = 16\n[sample_grid]\nnum = 0\n",
    );
    let answer = place.ok("train --preset tutorial --config tiny.toml --steps 1 --run-dir run");
    assert!(
        answer.err.contains("-8.2 dB") && answer.err.contains("raise beta_end to 0.100"),
        "{}",
        answer.err
    );
    let answer = place.ok("sample --run run --num 1 --steps 2");
    assert!(answer.err.contains("-8.2 dB"), "{}", answer.err);
    let answer = place.ok("train --config tiny.toml --steps 1 --run-dir good");
    assert!(!answer.err.contains("dB"), "{}", answer.err);
}

#[test]
fn info_counts_the_parameters() {
    let place = TestDir::new();
    assert!(place.ok("info --preset tutorial").out.contains("parameters       520193"));
    place.train_small("runs/a", 2);
    let answer = place.ok("info --threads 1");
    for part in [
        "with 1 threads",
        "step-0000002",
        "base_channels 16",
        "images           8×8",
        "20 steps, ends at",
    ] {
        assert!(answer.out.contains(part), "{part} is not in: {}", answer.out);
    }
}

#[test]
fn logs_can_be_json_or_silent() {
    let place = TestDir::new();
    place.small_config();
    let answer = place.ok("--log-format json train --config small.toml --run-dir a");
    for line in answer.err.lines() {
        assert!(
            line.starts_with('{') && line.ends_with('}') && line.contains("\"level\""),
            "{line}"
        );
    }
    assert!(!answer.err.is_empty());
    assert_eq!(place.ok("-q train --config small.toml --run-dir b").err, "");
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_exits_130() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let place = TestDir::new();
    place.small_config();
    let mut child = place
        .command("train --config small.toml --run-dir run --steps 1000000")
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // The first line of progress comes after the first step.
    assert!(lines.any(|line| line.unwrap().contains("training step")));
    assert!(
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success()
    );
    for _ in lines {}
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(
        out.contains("everything is saved in run") && out.contains("--run-dir run --resume"),
        "{out}"
    );

    let latest = fs::read_to_string(place.path("run/latest")).unwrap();
    let step: u64 = latest.trim().trim_start_matches("step-").parse().unwrap();
    assert!(step > 0);
    assert_eq!(
        fs::read_to_string(place.path("run/metrics.jsonl")).unwrap().lines().count() as u64,
        step
    );
    let answer = place.ok(&format!("train --run-dir run --resume --steps {}", step + 2));
    assert!(answer.out.contains(&format!("trained {} steps", step + 2)), "{}", answer.out);
}

#[test]
fn advice_about_a_short_schedule_can_be_followed() {
    let place = TestDir::new();
    place.small_config();
    let text = fs::read_to_string(place.path("small.toml")).unwrap();
    for (steps, advice) in
        [(25, "raise beta_end to 0.800"), (15, "beta_schedule squaredcos_cap_v2")]
    {
        let text = text.replace("= 20", &format!("= {steps}")).replace("0.6", "0.1");
        place.write("short.toml", text);
        let answer = place.ok(&format!("train --config short.toml --steps 1 --run-dir r{steps}"));
        assert!(answer.err.contains(advice), "{}", answer.err);
    }
}

#[test]
fn a_copy_under_another_step_is_no_checkpoint_and_other_classes_are_named() {
    let place = TestDir::new();
    place.small_config();
    place.ok("train --config small.toml --conditional --classes 3,5 --run-dir run --steps 2");
    let checkpoint = |step: u32| place.path(&format!("run/checkpoints/step-{step:07}"));
    fs::create_dir(checkpoint(99)).unwrap();
    for name in names(&checkpoint(2)) {
        fs::copy(checkpoint(2).join(&name), checkpoint(99).join(&name)).unwrap();
    }
    let answer = place.ok("train --run-dir run --resume --steps 3");
    assert!(answer.err.contains("step-0000002 (step 2)"), "{}", answer.err);
    assert_eq!(fs::read_to_string(place.path("run/latest")).unwrap().trim(), "step-0000003");

    // Class folders whose names differ.
    for (class, seed) in [("3", 1u8), ("new", 2)] {
        let picture = diffusion_picture::Picture {
            width: 8,
            height: 8,
            channels: 1,
            pixels: (0..64).map(|i| i * seed).collect(),
        };
        fs::create_dir_all(place.path(&format!("own/{class}"))).unwrap();
        picture.write_png(&place.path(&format!("own/{class}/a.png"))).unwrap();
    }
    let line = "train --config small.toml --conditional --init-from run --data own --run-dir tuned";
    let answer = place.ok(&format!("{line} --steps 1"));
    assert!(answer.err.contains("does not know yet: new"), "{}", answer.err);
    assert!(answer.err.contains("this training does not have: 0, 1, 2, 4"), "{}", answer.err);
}

#[test]
fn a_damaged_newer_checkpoint_is_not_overwritten() {
    let place = TestDir::new();
    place.small_config();
    let config = fs::read_to_string(place.path("small.toml")).unwrap();
    place.write("small.toml", config + "[checkpoint]\nevery = 2\nkeep = 3\n");
    place.ok("train --config small.toml --run-dir run --steps 4");
    fs::remove_file(place.path("run/latest")).unwrap();
    let damaged = "run/checkpoints/step-0000004/checkpoint.json";
    let state = fs::read(place.path(damaged)).unwrap();
    place.write(damaged, &state[..state.len() / 2]);
    place.refuses(
        "train --run-dir run --resume --steps 6",
        1,
        &["step-0000004: this checkpoint is damaged", "step-0000002"],
    );
    place.write("run/latest", "junk");
    place.refuses("train --run-dir run --resume", 1, &["step-0000004"]);
    place.refuses("sample --run run", 1, &["junk", "step-0000002"]);
    fs::remove_dir_all(place.path("run/checkpoints/step-0000004")).unwrap();
    fs::remove_file(place.path("run/latest")).unwrap();
    place.ok("train --run-dir run --resume --steps 6");
}
