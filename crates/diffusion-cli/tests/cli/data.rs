//! Data sets of the user.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::common::{TestDir, names};

/// A PNG file of `side`×`side` pixels, different for each seed.
fn png(side: u32, seed: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    // Noise, so that decoding takes its time.
    let pixel = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 40_503) >> 13) as u8;
    let pixels: Vec<u8> = (0..side * side * 4).map(pixel).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    bytes
}

fn set(place: &TestDir, count: u32, side: u32) {
    for seed in 0..count {
        place.write(
            &format!("set/{}/{seed}.png", if seed % 2 == 0 { "even" } else { "odd" }),
            png(side, seed),
        );
    }
}

#[test]
fn a_folder_trains_on_its_good_pictures_and_the_bad_ones_are_named() {
    let place = TestDir::new();
    place.small_config();
    set(&place, 12, 16);
    place.write("set/even/broken.png", "no picture");
    place.write("set/empty.jpg", "");
    let line =
        "train --config small.toml --data set --size 8 --flip --random-crop --validation 0.3";
    let answer = place.ok(&format!("{line} --run-dir run"));
    for part in [
        "left out empty.jpg: an empty file",
        "left out even/broken.png: not a picture",
        "RGB pictures of 8×8 from ",
        "(pictures, 16×16, 2 classes, 2 left out)",
        "other pictures are kept for validation",
        "step 4: validation loss ",
    ] {
        assert!(answer.err.contains(part), "{part}: {}", answer.err);
    }
    let config = fs::read_to_string(place.path("run/config.toml")).unwrap();
    for field in
        ["flip = true", "random_crop = true", "validation = 0.3", "background = \"#ffffff\""]
    {
        assert!(config.contains(field), "{field}: {config}");
    }
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    assert_eq!(
        metrics.lines().filter(|line| line.contains("validation_loss")).count(),
        1,
        "{metrics}"
    );

    // The second run reads the cache, gives the same numbers and resumes exactly.
    place.ok(&format!("{line} --run-dir again --steps 2"));
    place.ok("train --run-dir again --resume --steps 4");
    let weights = |run: &str| {
        fs::read(place.path(run).join("checkpoints/step-0000004/model.safetensors")).unwrap()
    };
    assert_eq!(weights("run"), weights("again"));
    place.refuses("train --run-dir run --resume --flip=false", 2, &["--flip cannot change"]);
    place.refuses(
        &format!("{line} --run-dir strict --max-bad 1"),
        1,
        &["more than 1 pictures cannot be used", "empty.jpg"],
    );
    place.refuses(
        "train --config small.toml --data set --classes evn",
        1,
        &["no class \"evn\"", "even, odd"],
    );
    place.refuses("train --data set --background pink", 2, &["pink", "#rrggbb"]);
    place.refuses(
        "train --data set --validation 2",
        2,
        &["pictures.validation is 2; it must be at least 0 and below 1"],
    );
}

#[test]
fn inspect_reports_the_contents_of_a_folder() {
    let place = TestDir::new();
    set(&place, 6, 16);
    place.write("set/odd/broken.png", "no picture");
    let answer = place.ok("data inspect set --size 8");
    for part in [
        "16×16  6",
        "RGB with opacity: 6",
        "even: 3",
        "odd: 3",
        "damaged: 1",
        "odd/broken.png: not a picture",
    ] {
        assert!(answer.out.contains(part), "{part}: {}", answer.out);
    }
    assert!(fs::read(place.path("contact-sheet.png")).unwrap().starts_with(b"\x89PNG"));
    let answer = place.ok("data inspect set --size 8 --json --sheet sheet.png");
    let json: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!((&json["pictures"], &json["image_shape"][0]), (&6.into(), &3.into()));
    assert_eq!(json["classes"][1]["count"], 3);
    assert_eq!(json["damaged"][0]["name"], "odd/broken.png");
    let mean = json["mean"][0].as_f64().unwrap();
    assert!((0.4..0.9).contains(&mean), "noise over white: {mean}");
}

#[test]
fn a_packed_set_trains_like_the_folder() {
    let place = TestDir::new();
    place.small_config();
    set(&place, 8, 8);
    let weights = |data: &str, run: &str| {
        place.ok(&format!("train --config small.toml --data {data} --run-dir {run}"));
        fs::read(place.path(run).join("checkpoints/step-0000004/model.safetensors")).unwrap()
    };
    let from_folder = weights("set", "a");
    for (out, run) in [("set.tar", "b"), ("set.parquet", "c")] {
        let answer = place.ok(&format!("data pack set {out}"));
        assert!(answer.out.contains("8 pictures, 2 classes"), "{}", answer.out);
        assert_eq!(weights(out, run), from_folder, "{out}");
    }
    place.refuses("data pack set set.tar", 1, &["set.tar", "exists already"]);
    place.refuses("data pack set set.rar", 1, &["set.rar", ".tar or .parquet"]);
}

fn cached(place: &TestDir) -> Vec<String> {
    let mut files =
        if place.path("cache").exists() { names(&place.path("cache")) } else { Vec::new() };
    files.retain(|name| name.strip_suffix(".lock").is_none());
    files
}

#[test]
fn two_processes_make_one_whole_cache_and_a_killed_one_leaves_nothing_behind() {
    let place = TestDir::new();
    set(&place, 300, 128);
    let inspect = || {
        let mut command = place.command("data inspect set --size 32 --json --sheet s.png");
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    // Kill the program once it has started the file. Repeat if it finished before the kill.
    loop {
        let mut killed = inspect();
        while !cached(&place).iter().any(|name| name.starts_with(".partial-"))
            && killed.try_wait().unwrap().is_none()
        {
            std::thread::yield_now();
        }
        killed.kill().unwrap();
        if !killed.wait().unwrap().success() {
            break;
        }
        fs::remove_dir_all(place.path("cache")).unwrap();
    }
    let left = cached(&place);
    assert!(left.iter().any(|name| name.starts_with(".partial-")), "{left:?}");

    let both = [inspect(), inspect()];
    let answers = both.map(|process| process.wait_with_output().unwrap());
    assert!(answers.iter().all(|answer| answer.status.success()));
    assert_eq!(answers[0].stdout, answers[1].stdout);
    let files = cached(&place);
    assert!(files.len() == 1 && files[0].ends_with(".pictures"), "{files:?}");
    let json: serde_json::Value = serde_json::from_slice(&answers[0].stdout).unwrap();
    let fresh = place.ok("data inspect set --size 32 --json --sheet s.png --no-cache");
    assert_eq!(json, serde_json::from_str::<serde_json::Value>(&fresh.out).unwrap());
}

#[test]
fn a_run_is_named_after_its_data() {
    let place = TestDir::new();
    place.small_config();
    place.write("my set/a.png", png(8, 1));
    fs::rename(place.path("my set"), place.path("set.x")).unwrap();
    place.ok("train --config small.toml --data set.x --repeat 4");
    assert_eq!(names(&place.path("runs")), ["set-1"]);
    assert!(Path::new(&place.path("runs/set-1/config.toml")).is_file());
}

#[test]
fn a_set_smaller_than_a_batch_needs_no_option() {
    let place = TestDir::new();
    place.small_config();
    for i in 0..20 {
        place.write(&format!("few/{i}.png"), png(8, i));
    }
    let repeated = "each of the 20 pictures is used 2 times per epoch to fill a batch of 32";
    for flags in ["", "--repeat 1"] {
        let answer = place.ok(&format!(
            "train --config small.toml --data few --batch-size 32 --steps 3 --run-dir run{} {flags}",
            flags.len()
        ));
        assert!(answer.err.contains(repeated), "{}", answer.err);
    }
    let weights =
        |run| fs::read(place.path(run).join("checkpoints/step-0000003/model.safetensors")).unwrap();
    assert_eq!(weights("run0"), weights("run10"));
    let answer = place.ok("train --config small.toml --data few --steps 1");
    assert!(!answer.err.contains("times per epoch"), "{}", answer.err);
}
