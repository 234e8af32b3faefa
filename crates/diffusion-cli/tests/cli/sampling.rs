use std::fs;

use candle_core::{Device, Tensor};

use crate::common::{TestDir, names};

#[test]
fn images_are_pngs_of_the_models_size_and_the_latest_run_is_named() {
    let place = TestDir::new();
    place.train_small("runs/old", 1);
    place.train_small("runs/new", 2);
    let answer = place.ok("sample --num 5 --out digits --grid all.png");
    assert!(
        answer.err.replace('\\', "/").contains("using runs/new/checkpoints/step-0000002"),
        "{}",
        answer.err
    );
    assert!(answer.out.contains("5 images in digits (20 steps each"), "{}", answer.out);
    assert_eq!(
        names(&place.path("digits")),
        ["000000.png", "000001.png", "000002.png", "000003.png", "000004.png"]
    );
    for name in names(&place.path("digits")) {
        // Width and height are at bytes 16 and 20, depth and colour type at 24 and 25.
        let png = fs::read(place.path("digits").join(name)).unwrap();
        assert_eq!(
            (&png[..4], &png[16..26]),
            (&b"\x89PNG"[..], &[0, 0, 0, 8, 0, 0, 0, 8, 8, 0][..])
        );
    }
    let named =
        place.ok("sample --num 1 --checkpoint runs/old/checkpoints/step-0000001 --out other");
    assert!(named.err.contains("step 1"), "{}", named.err);
}

#[test]
fn npy_is_float32_in_range_and_of_the_right_shape() {
    let place = TestDir::new();
    place.train_small("run", 1);
    place.ok("sample --run run --num 3 --batch-size 2 --format npy --out out");
    assert_eq!(names(&place.path("out")), ["samples.npy"]);
    let npy = fs::read(place.path("out/samples.npy")).unwrap();
    let header = String::from_utf8_lossy(&npy[..128.min(npy.len())]).into_owned();
    assert!(header.contains("'<f4'") && header.contains("(3,1,8,8,)"), "{header}");
    let data = &npy[npy.len() - 3 * 64 * 4..];
    for bytes in data.chunks_exact(4) {
        let value = f32::from_le_bytes(bytes.try_into().unwrap());
        assert!((-1.0..=1.0).contains(&value), "{value}");
    }
}

#[test]
fn an_image_depends_on_its_seed_and_number_alone() {
    let place = TestDir::new();
    place.train_small("run", 3);
    let first = |line: &str| {
        place.ok(&format!("sample --run run --format npy --out {line}"));
        let out = line.split_whitespace().next().unwrap();
        let npy = fs::read(place.path(out).join("samples.npy")).unwrap();
        let num: usize = line
            .split("--num ")
            .nth(1)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let start = npy.len() - num * 64 * 4;
        npy[start..start + 256].to_vec()
    };
    let alone = first("a --num 1");
    assert!(alone == first("b --num 7"));
    assert!(alone == first("c --num 7 --batch-size 3"));
    assert!(alone == first("d --num 7 --threads 1"));
    assert!(alone == first("e --num 7 --threads 2"));
    assert!(alone != first("f --num 1 --seed 1"));
    assert!(alone != first("g --num 1 --steps 5"));
    assert!(alone != first("h --num 1 --variance fixed-large"));
}

#[test]
fn every_sampler_makes_images_in_few_steps() {
    let place = TestDir::new();
    place.train_small("run", 3);
    let help = place.ok("sample --help").out;
    for name in [
        "ddpm",
        "ddim",
        "dpmpp-2m",
        "dpmpp-2m-heun",
        "dpmpp-2m-sde",
        "euler",
        "euler-ancestral",
        "heun",
        "unipc",
        "lms",
        "pndm",
    ] {
        assert!(help.contains(name), "--help does not name {name}");
        for sigmas in ["timesteps", "karras"] {
            let line = format!(
                "sample --run run --num 2 --sampler {name} --steps 6 --sigmas {sigmas} --out {name}"
            );
            assert!(place.ok(&line).out.contains("2 images"), "{name}");
        }
    }
    place.refuses(
        "sample --run run --sampler magic",
        2,
        &["invalid value 'magic'", "possible values", "dpmpp-2m"],
    );
    place.refuses("sample --run run --eta 2", 2, &["--eta", "from 0 to 1"]);
}

#[test]
fn every_sampling_step_can_be_saved() {
    let place = TestDir::new();
    place.train_small("run", 1);
    place.ok("sample --run run --num 3 --steps 5 --sampler ddim --trajectory steps --out out");
    let expected: Vec<String> = (1..=5).map(|step| format!("step-{step:04}.png")).collect();
    assert_eq!(
        names(&place.path("steps")),
        [&expected[..], &["strip.png".into(), "trajectory.gif".into()]].concat()
    );
    let gif = fs::read(place.path("steps/trajectory.gif")).unwrap();
    assert_eq!(&gif[..6], b"GIF89a");
    assert!(gif.len() > 500, "{} bytes", gif.len());
}

#[test]
fn initial_noise_from_a_file_replaces_the_seeds() {
    let place = TestDir::new();
    place.train_small("run", 1);
    let noise =
        candle_core::Tensor::randn(0f32, 1.0, (3, 1, 8, 8), &candle_core::Device::Cpu).unwrap();
    noise.write_npy(place.path("noise.npy")).unwrap();
    let sample = |line: &str| {
        let answer = place
            .ok(&format!("sample --run run --init-noise noise.npy --class 4 --format npy {line}"));
        assert!(answer.out.contains("3 images"), "{}", answer.out);
        let out = line.split("--out ").nth(1).unwrap();
        fs::read(place.path(out).join("samples.npy")).unwrap()
    };
    let first = sample("--sampler ddim --out a");
    assert!(first == sample("--sampler ddim --seed 7 --batch-size 2 --out b"));
    assert!(sample("--sampler ddpm --out c") != sample("--sampler ddpm --seed 7 --out d"));
    place.refuses(
        "sample --run run --init-noise noise.npy --class 4,5 --num 1",
        2,
        &["--init-noise works with one class or none"],
    );
    noise.narrow(3, 0, 4).unwrap().write_npy(place.path("small.npy")).unwrap();
    place.refuses(
        "sample --run run --init-noise small.npy",
        2,
        &["small.npy", "[1, 8, 8]", "[1, 8, 4]"],
    );
    place.write("bad.npy", "not an array");
    let header = |shape: &str| {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), &[0; 16]]
            .concat()
    };
    for shape in [
        "(99999999999, 1, 8, 8)",
        "(4294967296, 4294967296, 8, 8)",
        "(1, 1, 8, 9)",
        "(4,)",
        "()",
        "(-1, 1, 8, 8)",
    ] {
        place.write("claims.npy", header(shape));
        place.refuses(
            "sample --run run --init-noise claims.npy",
            1,
            &["claims.npy", "not an npy array of images"],
        );
    }
    place.refuses("sample --run run --sampler lms --eta 0.5", 2, &["--eta is for ddim", "lms"]);
    place.refuses(
        "sample --run run --sampler ddim --churn 1",
        2,
        &["--churn is for euler and heun"],
    );
    place.refuses(
        "sample --run run --sampler ddim --variance fixed-large",
        2,
        &["--variance is for ddpm"],
    );
    place.refuses("sample --run run --init-noise bad.npy", 1, &["bad.npy", "npy"]);
    place.refuses("sample --run run --init-noise none.npy", 1, &["none.npy"]);
}

#[test]
fn samplers_are_compared_in_one_picture() {
    let place = TestDir::new();
    place.train_small("run", 1);
    let answer = place
        .ok("evaluate grid --run run --samplers ddim,unipc --steps 2,5 --num 4 --out table.png");
    for part in ["seconds", "ddim", "unipc", "table.png"] {
        assert!(answer.out.contains(part), "{part} is not in: {}", answer.out);
    }
    // At least two cells side by side, each a grid of four 8×8 pictures, with row names on the
    // left.
    let png = fs::read(place.path("table.png")).unwrap();
    let width = u32::from_be_bytes(png[16..20].try_into().unwrap());
    assert!((2 * 42..500).contains(&width), "{width}");
    place.refuses(
        "evaluate grid --run run --samplers flow-heun",
        2,
        &["flow-heun", "needs a flow model"],
    );
    place.refuses("evaluate grid --run run --steps 21", 2, &["--steps 21", "20"]);
}

/// `leading` starts far from noise if the steps do not divide the training timesteps (here 200).
#[test]
fn a_plan_that_starts_far_from_noise_is_named() {
    let place = TestDir::new();
    let warning = "starts at timestep 149 of 200";
    let line = |flags: &str| format!("sample --num 1 --steps {flags} --out out");
    let bad = place.ok(&line("150 --spacing leading"));
    assert!(bad.err.contains(warning), "{}", bad.err);
    assert!(bad.err.contains("--spacing trailing, or --steps 100 or 172"), "{}", bad.err);
    for good in ["100 --spacing leading", "150", "150 --spacing linspace", "1", "20"] {
        let answer = place.ok(&line(good));
        assert!(!answer.err.contains("starts at timestep"), "{good}: {}", answer.err);
    }
    for spacing in ["leading", "linspace"] {
        let parts = ["--steps 1 with", "starts at timestep 0 of 200", "--spacing trailing"];
        place.refuses(&line(&format!("1 --spacing {spacing}")), 2, &parts);
    }
}

#[test]
fn doubtful_noise_and_classes_are_named() {
    let place = TestDir::new();
    place.train_small("run", 1);
    let noise = |name: &str, scale: f64| {
        let values: Vec<f32> = (0..9 * 64)
            .map(|i| (scale * (f64::from(i) * 1.7).sin() * 2f64.sqrt()) as f32)
            .collect();
        let noise = Tensor::from_vec(values, (9, 1, 8, 8), &Device::Cpu).unwrap();
        diffusion_picture::write_npy(&noise, &place.path(name)).unwrap();
    };
    noise("good.npy", 1.0);
    noise("wide.npy", 14.6);
    let line = "sample --run run --steps 2 --sampler ddim --format npy --init-noise";
    assert!(!place.ok(&format!("{line} good.npy --out good")).err.contains("WARN --init-noise"));
    let answer = place.ok(&format!("{line} wide.npy --out wide"));
    assert!(answer.err.contains("standard deviation 14.59"), "{}", answer.err);
    // --num takes the first images.
    place.ok(&format!("{line} good.npy --num 4 --out four"));
    let images =
        |out: &str| diffusion_picture::read_npy(&place.path(out).join("samples.npy")).unwrap();
    let (all, four) = (images("good"), images("four"));
    assert_eq!((all.dims()[0], four.dims()[0]), (9, 4));
    let first = all.narrow(0, 0, 4).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(first, four.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    place.refuses(&format!("{line} good.npy --num 10 --out ten"), 2, &["has only 9 images"]);

    // A class without training pictures.
    place.ok("train --config small.toml --conditional --classes 3,5 --run-dir two --steps 1");
    let line = "sample --run two --num 1 --steps 1 --sampler ddim --out o";
    assert!(!place.ok(&format!("{line} --class 3")).err.contains("no training pictures"));
    let answer = place.ok(&format!("{line} --class 4"));
    assert!(answer.err.contains("no training pictures of 4"), "{}", answer.err);
}

#[cfg(unix)]
#[test]
fn outputs_go_through_links_and_pipes_and_a_full_one_is_an_error() {
    let place = TestDir::new();
    place.write("real.json", "old");
    std::os::unix::fs::symlink("real.json", place.path("link.json")).unwrap();
    place.ok("sample --num 6 --steps 1 --sampler ddim --out own");
    place.ok("evaluate samples own --against mnist --json link.json");
    assert!(place.path("link.json").symlink_metadata().unwrap().is_symlink());
    assert!(fs::read_to_string(place.path("real.json")).unwrap().contains("frechet_distance"));
    let full = std::path::Path::new("/dev/full");
    if full.exists() {
        let output = fs::File::options().write(true).open(full).unwrap();
        let answer = place.command("schedule compare --csv").stdout(output).output().unwrap();
        assert_eq!(answer.status.code(), Some(1));
        let text = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(text.contains("standard output cannot be written"), "{text}");
    }
}

#[test]
fn outputs_that_would_overwrite_each_other_are_refused() {
    let place = TestDir::new();
    let line = "sample --num 4 --steps 1 --sampler ddim --out d";
    place.refuses(&format!("{line} --grid d/000001.png"), 2, &["an image of --out has this name"]);
    place.refuses(&format!("{line} --grid a.png --strip a.png"), 2, &["--grid and --strip name"]);
    place.ok(&format!("{line} --grid d/7.png"));
    let out = place.ok("data inspect d --json --sheet s.png").out;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["pictures"], 4, "the grid is no picture");
}

/// With `--precision bf16`, images do not depend on the batch either. They differ from those in f32
/// where the CPU has bf16; elsewhere a warning says that they are in f32.
#[test]
fn images_in_bf16_do_not_depend_on_the_batch() {
    let place = TestDir::new();
    let sample = |name: &str, flags: &str| {
        let answer =
            place.ok(&format!("sample --num 3 --steps 4 --format npy --out {name} {flags}"));
        (fs::read(place.path(name).join("samples.npy")).unwrap(), answer.err)
    };
    let (whole, warning) = sample("whole", "--precision bf16");
    assert_eq!(sample("single", "--precision bf16 --batch-size 1 --threads 1").0, whole);
    let is_f32 = sample("f32", "").0 == whole;
    assert_eq!(is_f32, warning.contains("sampling in f32 instead"), "{warning}");
    assert_eq!(sample("auto", "--precision auto").0, whole);
}
