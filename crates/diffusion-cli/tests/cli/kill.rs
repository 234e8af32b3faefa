use std::fs;
use std::time::Duration;

use crate::common::Workplace;

/// A process can be killed at any instant, in the middle of a save too; ten times over, the run goes on from a whole
/// checkpoint, and in the end it has the bytes of a run that nobody killed.
#[test]
fn a_run_killed_ten_times_resumes_every_time_and_ends_as_if_never_killed() {
    let place = Workplace::new();
    place.small_config();
    let config = fs::read_to_string(place.path("small.toml")).unwrap();
    // Saving after every step puts most of the kills into a save.
    place.write("small.toml", format!("{config}[checkpoint]\nevery = 1\nkeep = 2\n"));
    let mut line = "train --config small.toml --run-dir killed --steps 1000000".to_owned();
    let mut last_step = 0;
    for round in 0..10u64 {
        let mut child = place.command(&line).stderr(std::process::Stdio::null()).spawn().unwrap();
        // The run must have begun before it can be killed in it; after that, any moment will do.
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

fn latest_step(place: &Workplace) -> u64 {
    let latest = fs::read_to_string(place.path("killed/latest")).unwrap();
    latest.trim().trim_start_matches("step-").parse().unwrap()
}
