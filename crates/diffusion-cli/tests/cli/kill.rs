use std::fs;
use std::time::Duration;

use crate::common::TestDir;

/// The process may be killed at any time, even while it saves. Each time the run resumes from a
/// complete checkpoint, and the result equals that of an uninterrupted run bit for bit.
#[test]
fn a_run_killed_ten_times_resumes_and_ends_like_an_uninterrupted_run() {
    let place = TestDir::new();
    place.small_config();
    let config = fs::read_to_string(place.path("small.toml")).unwrap();
    // With a save after every step, most kills happen during a save.
    place.write("small.toml", format!("{config}[checkpoint]\nevery = 1\nkeep = 2\n"));
    let mut line = "train --config small.toml --run-dir killed --steps 1000000".to_owned();
    let mut last_step = 0;
    for round in 0..10u64 {
        let mut child = place.command(&line).stderr(std::process::Stdio::null()).spawn().unwrap();
        // Wait until the run has started; then kill it at an arbitrary time.
        while !place.path("killed/latest").exists() {
            assert!(child.try_wait().unwrap().is_none(), "the program ended by itself");
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(150_000 + round * 13_337));
        child.kill().unwrap();
        child.wait().unwrap();

        let step = latest_step(&place);
        assert!(step >= last_step, "round {round}: fell from step {last_step} to {step}");
        last_step = step;
        let info = place.ok("info --run killed");
        assert!(info.out.contains(&format!("step-{step:07}")), "round {round}: {}", info.out);
        place.ok("sample --run killed --num 1 --steps 1 --weights raw");
        "train --run-dir killed --resume".clone_into(&mut line);
    }
    let end = last_step + 3;
    place.ok(&format!("train --run-dir killed --resume --steps {end}"));
    place.ok(&format!("train --config small.toml --run-dir whole --steps {end}"));
    for name in ["ema.safetensors", "model.safetensors", "optimizer.safetensors"] {
        let read = |run: &str| {
            fs::read(place.path(&format!("{run}/checkpoints/step-{end:07}/{name}"))).unwrap()
        };
        assert!(read("killed") == read("whole"), "{name} differs after {end} steps");
    }
    let left = crate::common::names(&place.path("killed/checkpoints"));
    assert!(left.iter().all(|name| name.starts_with("step-")) && left.len() == 2, "{left:?}");
}

fn latest_step(place: &TestDir) -> u64 {
    let latest = fs::read_to_string(place.path("killed/latest")).unwrap();
    latest.trim().trim_start_matches("step-").parse().unwrap()
}

/// A copy of a run, or a power cut, may lose the file `latest`. Its checkpoints are found all the
/// same, and no step is lost or repeated.
#[test]
fn a_run_without_latest_continues_from_its_newest_checkpoint() {
    let place = TestDir::new();
    place.small_config();
    let config = fs::read_to_string(place.path("small.toml")).unwrap();
    place.write("small.toml", format!("{config}[checkpoint]\nevery = 2\nkeep = 3\n"));
    place.ok("train --config small.toml --run-dir whole --steps 8");
    place.ok("train --config small.toml --run-dir run --steps 6");
    let checkpoints = |place: &TestDir| crate::common::names(&place.path("run/checkpoints"));
    let before = checkpoints(&place);
    for latest in [None, Some(""), Some("step-0000002\n")] {
        match latest {
            Some(latest) => drop(place.write("run/latest", latest)),
            None => fs::remove_file(place.path("run/latest")).unwrap(),
        }
        let resumed = place.ok("train --run-dir run --resume");
        assert!(resumed.err.contains("step-0000006 (step 6)"), "{}", resumed.err);
        assert_eq!(checkpoints(&place), before, "{latest:?}");
        let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
        assert_eq!(metrics.lines().count(), 6);
    }
    fs::remove_file(place.path("run/latest")).unwrap();
    assert!(place.ok("info --run run").out.contains("step-0000006"));
    place.ok("train --run-dir run --resume --steps 8");
    let model = |run: &str| {
        fs::read(place.path(&format!("{run}/checkpoints/step-0000008/model.safetensors"))).unwrap()
    };
    assert!(model("run") == model("whole"));

    // A checkpoint that `latest` names but that does not exist is an error, not a new start.
    place.write("run/latest", "step-0000009\n");
    let parts = ["`step-0000009`, which does not exist", "step-0000008"];
    place.refuses("train --run-dir run --resume --steps 10", 1, &parts);
    place.refuses("sample --run run", 1, &parts);
    // The checkpoints alone are a run that must not be overwritten.
    fs::remove_file(place.path("run/config.toml")).unwrap();
    place.refuses("train --config small.toml --run-dir run", 1, &["already holds a run"]);
    assert_eq!(checkpoints(&place).len(), 3);
}

#[test]
fn a_damaged_checkpoint_is_named_with_the_newest_one_that_can_be_read() {
    let place = TestDir::new();
    place.small_config();
    let config = fs::read_to_string(place.path("small.toml")).unwrap();
    place.write("small.toml", format!("{config}[checkpoint]\nevery = 2\nkeep = 3\n"));
    place.ok("train --config small.toml --run-dir run --steps 6");
    for (step, file) in [(6, "model.safetensors"), (4, "ema.safetensors")] {
        let path = place.path(&format!("run/checkpoints/step-000000{step}/{file}"));
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let parts = ["step-0000006", "model.safetensors", "step-0000002"];
    place.refuses("train --run-dir run --resume --steps 8", 1, &parts);
    place.refuses("sample --run run --weights raw", 1, &parts);
    let left = crate::common::names(&place.path("run/checkpoints"));
    assert_eq!(left, ["step-0000002", "step-0000004", "step-0000006"]);

    // The files to remove are all named: without them the run continues from the whole one.
    let refused = place.refuses("train --run-dir run --resume --steps 8", 1, &["Remove "]);
    let (_, removals) = refused.split_once("Remove ").unwrap();
    let (removals, _) = removals.split_once(" to use that one").unwrap();
    for path in removals.split(" and ") {
        let path = place.path(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    place.ok("sample --run run --num 1 --steps 1");
    assert!(place.ok("train --run-dir run --resume --steps 8").err.contains("(step 2)"));
}

/// A resume that fails changes nothing that other commands use.
#[test]
fn a_refused_resume_leaves_the_run_as_it_was() {
    let place = TestDir::new();
    place.small_config();
    let config = fs::read_to_string(place.path("small.toml")).unwrap();
    place.write("small.toml", format!("{config}[checkpoint]\nevery = 2\nkeep = 3\n"));
    place.ok("train --config small.toml --run-dir run --steps 4");
    place.write("run/latest", "step-0000002\n");
    let weights = place.path("run/checkpoints/step-0000004/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    place.refuses("train --run-dir run --resume --steps 6", 1, &["step-0000004", "step-0000002"]);
    assert_eq!(fs::read_to_string(place.path("run/latest")).unwrap(), "step-0000002\n");
    place.ok("sample --run run --num 1 --steps 1");
    fs::write(&weights, bytes).unwrap();

    // Under another name, a newer checkpoint is still one whose steps must not be repeated.
    let checkpoint = |name: &str| place.path(&format!("run/checkpoints/{name}"));
    fs::rename(checkpoint("step-0000004"), checkpoint("step-0000004-copy")).unwrap();
    place.refuses(
        "train --run-dir run --resume --steps 6",
        1,
        &["step-0000004-copy", "rename it to step-0000004"],
    );
    let metrics = || fs::read_to_string(place.path("run/metrics.jsonl")).unwrap().lines().count();
    assert_eq!(metrics(), 4);
    fs::rename(checkpoint("step-0000004-copy"), checkpoint("step-0000004")).unwrap();
    assert!(place.ok("train --run-dir run --resume --steps 6").err.contains("(step 4)"));

    // Without any checkpoint, the metrics show that steps would be lost.
    fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    fs::remove_dir_all(place.path("run/samples")).unwrap();
    fs::remove_file(place.path("run/latest")).unwrap();
    place.refuses("train --run-dir run --resume", 1, &["holds no checkpoint", "metrics.jsonl"]);
    assert_eq!(metrics(), 6);
    fs::remove_file(place.path("run/metrics.jsonl")).unwrap();
    place.ok("train --run-dir run --resume --steps 2");
}

/// A run that starts from another run's weights has them from its first moment.
#[test]
fn a_run_has_its_first_checkpoint_before_its_configuration() {
    let place = TestDir::new();
    place.train_small("origin", 2);
    place.ok("train --config small.toml --init-from origin --run-dir run --steps 1");
    // What a process that was killed before the first step leaves.
    fs::create_dir_all(place.path("rest/checkpoints")).unwrap();
    fs::create_dir_all(place.path("rest/samples")).unwrap();
    for name in crate::common::names(&place.path("run/checkpoints/step-0000000")) {
        let copy = format!("rest/checkpoints/step-0000000/{name}");
        let bytes = fs::read(place.path(&format!("run/checkpoints/step-0000000/{name}"))).unwrap();
        place.write(&copy, bytes);
    }
    place.refuses("train --run-dir rest --resume", 1, &["holds no run"]);
    place.ok("train --config small.toml --init-from origin --run-dir rest --steps 1");
    let model = |run: &str| {
        fs::read(place.path(&format!("{run}/checkpoints/step-0000001/model.safetensors"))).unwrap()
    };
    assert!(model("rest") == model("run"));
}

/// Whoever lets a run train further reads that its learning rate rises again, and whoever does not
/// reads that nothing was trained.
#[test]
fn a_resumed_run_says_what_changes() {
    let place = TestDir::new();
    place.small_config();
    let config = fs::read_to_string(place.path("small.toml")).unwrap();
    place.write("small.toml", config.replace("\"constant\"", "\"cosine\""));
    let first = place.ok("train --config small.toml --run-dir run --steps 12");
    assert!(first.out.contains("trained 12 steps in"), "{}", first.out);
    assert!(!first.out.contains("samples:"), "no grid was drawn: {}", first.out);
    let again = place.ok("train --run-dir run --resume");
    assert!(again.out.contains("already trained 12 steps; nothing was done"), "{}", again.out);
    assert!(!again.err.contains("the learning rate rises"), "{}", again.err);
    let longer = place.ok("train --run-dir run --resume --steps 40");
    assert!(longer.err.contains("the learning rate rises from"), "{}", longer.err);

    fs::write(place.path("run/config.toml"), "").unwrap();
    place.refuses("train --run-dir run --resume", 1, &["config.toml: the file is empty"]);
}

/// A cluster ends a job by SIGTERM, a closed terminal by SIGHUP. Both save like Ctrl-C.
#[cfg(target_os = "linux")]
#[test]
fn sigterm_and_sighup_save_and_stop() {
    use std::process::Stdio;

    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        // Tests that were started with `nohup` pass it on to the program.
        if signal == "HUP" && ignores_hangup() {
            continue;
        }
        let place = TestDir::new();
        place.small_config();
        let mut command = place.command("train --config small.toml --run-dir run --steps 1000000");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_steps(&place, &mut child);
        send(signal, child.id());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{signal}");
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(out.contains("everything is saved in run"), "{signal}: {out}");
        let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
        let step = fs::read_to_string(place.path("run/latest")).unwrap();
        let step: usize = step.trim().trim_start_matches("step-").parse().unwrap();
        assert_eq!(metrics.lines().count(), step);
    }
}

/// `nohup` makes a program ignore SIGHUP. It must go on when the terminal closes.
#[cfg(target_os = "linux")]
#[test]
fn a_training_under_nohup_survives_sighup() {
    let place = TestDir::new();
    place.small_config();
    let line = "train --config small.toml --run-dir run --steps 1000000";
    let mut command = std::process::Command::new("sh");
    let program = place.command(line).get_program().to_owned();
    let script = format!("trap '' HUP; exec {} {line}", program.to_str().unwrap());
    command.args(["-c", &script]).current_dir(place.path("")).env("CI", "true");
    command.env("DIFFUSION_CACHE", place.path("cache")).stdout(std::process::Stdio::null());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_for_steps(&place, &mut child);
    send("HUP", child.id());
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "SIGHUP ended it");
    send("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[cfg(target_os = "linux")]
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1
}

#[cfg(target_os = "linux")]
fn send(signal: &str, process: u32) {
    let process = process.to_string();
    let status = std::process::Command::new("kill").args(["-s", signal, &process]).status();
    assert!(status.unwrap().success());
}

/// Waits until the run has trained some steps.
#[cfg(target_os = "linux")]
fn wait_for_steps(place: &TestDir, child: &mut std::process::Child) {
    let lines = || fs::read_to_string(place.path("run/metrics.jsonl")).unwrap_or_default();
    while lines().lines().count() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "the program ended by itself");
        std::thread::yield_now();
    }
}
