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
