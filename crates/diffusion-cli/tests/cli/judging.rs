//! The evaluation of generated images, and the model that comes with the program.

use std::fs;

use serde_json::Value;

use crate::common::TestDir;

/// A short training on the digits.
const DIGITS: &str = "batch_size = 4\nsteps = 4\n[network]\nbase_channels = 16\ntime_dim = 8\n[schedule]\n\
                      num_train_timesteps = 20\nbeta_schedule = \"linear\"\nbeta_start = 5e-3\nbeta_end = 0.6\n[sample_grid]\nnum = 2\nsteps = 2\n";

fn json(place: &TestDir, name: &str) -> Value {
    serde_json::from_slice(&fs::read(place.path(name)).unwrap()).unwrap()
}

#[test]
fn digits_are_sampled_and_evaluated_without_a_run() {
    let place = TestDir::new();
    let answer = place.ok("sample --num 70 --sampler dpmpp-2m --steps 4 --out digits");
    assert!(answer.out.contains("by the model that comes with the program"), "{}", answer.out);
    assert!(answer.err.contains("there is no run in runs/ yet"), "{}", answer.err);

    let answer =
        place.ok("evaluate samples digits --against mnist --training mnist --json digits.json");
    for part in [
        "Fréchet distance",
        "recall",
        "copies of training pictures",
        "10,000 test digits",
        "70 images",
    ] {
        assert!(answer.out.contains(part), "{part}\n{}", answer.out);
    }
    let of_folder = json(&place, "digits.json");
    let set = &of_folder["sets"][0];
    assert_eq!(set["count"], 70);
    let shares: f64 =
        set["class_shares"].as_array().unwrap().iter().map(|share| share.as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    let real = &of_folder["training_pictures"];
    assert!(real["frechet_distance"].as_f64().unwrap() < set["frechet_distance"].as_f64().unwrap());
    assert_eq!((&real["count"], &of_folder["sampler"]), (&set["count"], &Value::Null));

    // The same images, sampled again; the folder's are rounded to 8 bits per pixel.
    place.ok("evaluate samples --num 70 --seeds 1 --sampler dpmpp-2m --steps 4 --json model.json");
    let of_model = json(&place, "model.json");
    assert!(
        of_model["what"]
            .as_str()
            .unwrap()
            .ends_with("4 steps with guidance of 1.1, 70 images from seed 0"),
        "{of_model}"
    );
    assert!(of_model["what"].as_str().unwrap().contains("comes with the program"));
    assert_eq!(
        (&of_model["checkpoint"], of_model["sampler"].as_str(), &of_model["steps"]),
        (&Value::Null, Some("dpmpp-2m"), &4.into())
    );
    assert!(of_model["standard_deviation"]["frechet_distance"].is_null(), "of one set");
    let distance = |json: &Value| json["sets"][0]["frechet_distance"].as_f64().unwrap();
    assert!(
        (distance(&of_model) / distance(&of_folder) - 1.0).abs() < 0.05,
        "{of_model} {of_folder}"
    );
}

#[test]
fn the_spread_is_that_of_the_seeds() {
    let place = TestDir::new();
    place.write("digits.toml", DIGITS);
    place.ok("train --config digits.toml --run-dir run");
    let line = "evaluate samples run --num 64 --seeds 2 --sampler ddim --steps 2 --json two.json";
    let answer = place.ok(line);
    let written = json(&place, "two.json");
    let sets = &written["sets"];
    let values: Vec<f64> = (0..2).map(|i| sets[i]["frechet_distance"].as_f64().unwrap()).collect();
    let (mean, spread) =
        (f64::midpoint(values[0], values[1]), (values[0] - values[1]).abs() / 2f64.sqrt());
    let row = answer.out.lines().find(|line| line.starts_with("Fréchet distance")).unwrap();
    assert!(
        row.contains(&format!("{mean:.4}")) && row.contains(&format!("{spread:.4}")),
        "{row} {mean} {spread}"
    );
    let figure = |of: &str| written[of]["frechet_distance"].as_f64().unwrap();
    assert!(
        (figure("mean") - mean).abs() < 1e-9
            && (figure("standard_deviation") - spread).abs() < 1e-9
    );
    assert_eq!((&written["seeds"], &written["steps"]), (&[0, 1].as_slice().into(), &2.into()));
    assert!(written["checkpoint"].as_str().unwrap().ends_with("step-0000004"), "{written}");
    assert!(answer.out.contains("64 images from each of the seeds 0 to 1"), "{}", answer.out);
    assert!(answer.out.contains("compare 64 images with 3000 real ones"), "{}", answer.out);
}

/// Writes a folder of digits.
fn own_pictures(place: &TestDir, folder: &str, num: u32) {
    place.ok(&format!("sample --num {num} --sampler dpmpp-2m --steps 2 --out {folder}"));
}

#[test]
fn a_run_on_other_pictures_is_compared_with_its_validation_set() {
    let place = TestDir::new();
    place.write("digits.toml", DIGITS);
    own_pictures(&place, "own", 60);
    let line = "evaluate samples run --num 64 --seeds 1 --sampler ddim --steps 2 --json out.json";
    place.ok("train --config digits.toml --data own --validation 0.3 --run-dir run");
    let answer = place.ok(line);
    let kept = json(&place, "out.json");
    let of_training = kept["training_pictures"]["count"].as_u64().unwrap();
    assert!(
        kept["against"].as_str().unwrap().contains("that the run kept out of training"),
        "{kept}"
    );
    assert!(
        answer.out.contains(&format!("only {of_training} training pictures")),
        "{}",
        answer.out
    );
    let number = answer.out.lines().find(|line| line.starts_with("number")).unwrap();
    assert!(number.contains("64") && number.ends_with(&of_training.to_string()), "{number}");
    assert!(answer.err.contains("a classifier of digits"), "{}", answer.err);

    place.ok(&format!("{line} --against own"));
    assert!(
        json(&place, "out.json")["training_pictures"].is_null(),
        "the training pictures are the reference"
    );

    fs::remove_dir_all(place.path("run")).unwrap();
    let trained = place.ok("train --config digits.toml --data own --run-dir run").out;
    assert!(trained.contains("--out generated"), "{trained}");
    let answer = place.ok(line);
    let circular = json(&place, "out.json");
    assert!(
        circular["training_pictures"].is_null() && circular["sets"][0]["copies"].is_f64(),
        "{circular}"
    );
    assert!(answer.out.contains("no column of training pictures"), "{}", answer.out);

    fs::rename(place.path("own"), place.path("elsewhere")).unwrap();
    place.refuses(
        line,
        2,
        &["own: the training pictures of the run no longer exist", "--training"],
    );
    place.refuses(
        "evaluate model --run run",
        2,
        &["own: the training pictures of the run no longer exist", "--data"],
    );
}

#[test]
fn sets_of_different_sizes_are_noted() {
    let place = TestDir::new();
    own_pictures(&place, "small", 10);
    own_pictures(&place, "large", 20);
    let out = place.ok("evaluate samples small large").out;
    for part in ["small (10 images), large (20 images)", "the sets have 10 to 20 images", "10-20"] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    assert!(!place.ok("evaluate samples small small").out.contains("the sets have"));
    place.ok("evaluate samples large --against small");
    own_pictures(&place, "few", 5);
    place.refuses("evaluate samples small few", 2, &["few: 5 images", "6 are needed"]);
    place.refuses(
        "evaluate samples small --against few",
        2,
        &["few", "5 pictures", "6 are needed", "--against"],
    );
}

#[test]
fn images_are_evaluated_without_resizing() {
    let place = TestDir::new();
    let grey = |name: &str, width: u32, height: u32| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Grayscale);
        let pixels = vec![128; (width * height) as usize];
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        place.write(name, bytes);
    };
    for i in 0..8 {
        grey(&format!("large/{i}.png"), 80, 80);
        grey(&format!("mixed/{i}.png"), 28 + i % 2, 28 + i % 2);
        grey(&format!("wide/{i}.png"), 40, 28);
    }
    place.refuses("evaluate samples large --against large", 2, &["1×80×80"]);
    let odd = "1.png (and 3 more) has 29×29 pixels, most others have 28×28";
    place.refuses("evaluate samples mixed", 2, &["mixed: its images differ in size", odd]);
    place.refuses(
        "evaluate samples mixed --size 20 --against mixed --channels rgb",
        2,
        &["3×20×20"],
    );
    place.refuses("evaluate samples wide", 2, &["wide: its images are 40×28"]);
    // Sampling flags do not apply to a folder of images.
    own_pictures(&place, "own", 6);
    place.refuses(
        "evaluate samples own --steps 3",
        2,
        &["--steps is for sampling", "own is not the folder of a run"],
    );
    let out = place.ok("evaluate samples own").out;
    assert!(out.contains("6 images are fewer than the 64 features"), "{out}");
    place.refuses("evaluate samples --run nowhere", 2, &["--run nowhere: there is no such"]);
    place.refuses(
        "evaluate samples own --inception nowhere",
        2,
        &["--inception nowhere: there is no such"],
    );
}

#[test]
fn mirrored_copies_are_searched_for_after_training_with_flips() {
    let place = TestDir::new();
    place.write("digits.toml", DIGITS);
    let line = "evaluate samples run --num 64 --seeds 1 --sampler ddim --steps 2";
    place.ok("train --config digits.toml --flip=true --run-dir run");
    assert!(place.ok(line).out.contains("mirror images of training pictures are copies too"));
    fs::remove_dir_all(place.path("run")).unwrap();
    place.ok("train --config digits.toml --run-dir run");
    assert!(!place.ok(line).out.contains("mirror"));
}

#[test]
fn copies_are_searched_for_without_features_too() {
    let place = TestDir::new();
    place.train_small("run", 1);
    let answer = place
        .ok("evaluate samples run --num 64 --seeds 2 --sampler ddim --steps 2 --json out.json");
    for part in ["copies of training pictures", "not of 1×8×8", "--inception"] {
        assert!(answer.out.contains(part), "{part}\n{}", answer.out);
    }
    let of_pixels = json(&place, "out.json");
    assert!(of_pixels["sets"][1]["copies"].is_f64() && of_pixels["judge"].is_null(), "{of_pixels}");
    assert!(of_pixels["sets"][1].get("frechet_distance").is_none(), "{of_pixels}");
    let answer = place.ok("train --config small.toml --run-dir other --eval-every 2 --eval-num 64");
    assert!(
        answer.err.contains("checked for copies of the 10000 training pictures only"),
        "{}",
        answer.err
    );
    let metrics = fs::read_to_string(place.path("other/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert!(
        last["samples"]["copies"].is_f64() && last["samples"].get("recall").is_none(),
        "{last}"
    );
}

#[test]
fn unwritable_outputs_fail_before_sampling() {
    let place = TestDir::new();
    let line = "evaluate samples --num 64 --seeds 1 --steps 2 --sampler ddim";
    place.refuses(&format!("{line} --json no/such/file.json"), 2, &["--json", "no folder no/such"]);
    place.write("folder/kept.json", "kept");
    place.refuses(&format!("{line} --json folder"), 2, &["--json folder", "it is a folder"]);
    // A later failure leaves no new file and keeps an existing one.
    place.refuses(&format!("{line} --json new.json --against nowhere"), 2, &["nowhere"]);
    place.refuses(&format!("{line} --json folder/kept.json --against nowhere"), 2, &["nowhere"]);
    assert!(!place.path("new.json").exists());
    assert_eq!(fs::read_to_string(place.path("folder/kept.json")).unwrap(), "kept");
}

#[test]
fn the_model_that_comes_with_the_program_is_evaluated_too() {
    let place = TestDir::new();
    let out = place.ok("evaluate model --num 2 --bins 2 --looks 1").out;
    for part in [
        "the small model of digits that comes with the program",
        "that the model was trained on",
        "L_0",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    own_pictures(&place, "own", 8);
    let out = place.ok("evaluate model --num 2 --bins 2 --looks 1 --data own").out;
    assert!(out.contains("of the 8 pictures of own"), "{out}");
}

#[test]
fn samples_are_evaluated_during_training() {
    let place = TestDir::new();
    place.write("digits.toml", DIGITS);
    place.ok("train --config digits.toml --run-dir run --eval-every 2 --eval-num 64 --tensorboard");
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (i, line) in lines.iter().enumerate() {
        let distance = line["samples"]["frechet_distance"].as_f64();
        assert_eq!(distance.is_some_and(|distance| distance > 0.0), i % 2 == 1, "{line}");
    }
    let last = &lines[lines.len() - 1]["samples"];
    let shares = (0..10).map(|class| last[format!("share_of_class_{class}")].as_f64().unwrap());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9, "{last}");
    let page = fs::read_to_string(place.path("run/index.html")).unwrap();
    for part in [
        "Sample quality",
        "coverage",
        "(64 images)",
        "share of class 9",
        "nearest training distance",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn evaluate_grid_prints_distances_and_seconds() {
    let place = TestDir::new();
    let answer = place.ok("evaluate grid --samplers ddim,dpmpp-2m --steps 2,6 --num 4 --judged 64");
    let lines = answer.out.lines().skip_while(|line| !line.starts_with("distance")).skip(1);
    let distances: Vec<&str> = lines.take(2).collect();
    assert!(
        distances[0].starts_with("ddim ") && distances[1].starts_with("dpmpp-2m "),
        "{distances:?}"
    );
    for line in distances {
        let numbers: Vec<f64> =
            line.split_whitespace().skip(1).map(|number| number.parse().unwrap()).collect();
        assert!(numbers.len() == 2 && numbers[1] < numbers[0], "{line}");
    }
}

#[test]
fn impossible_evaluations_are_usage_errors() {
    let place = TestDir::new();
    place.train_small("run", 1);
    place.refuses("evaluate samples run --against mnist", 2, &["1×8×8", "--inception"]);
    place.refuses(
        "evaluate samples nowhere --against mnist",
        2,
        &["nowhere: there is no such folder", "checkpoint"],
    );
    place.refuses("evaluate samples run run", 2, &["must be the only folder"]);
    place.refuses(
        "evaluate samples --against nowhere",
        2,
        &["--against nowhere", "--against mnist"],
    );
    place.refuses("evaluate samples --training nowhere", 2, &["--training nowhere"]);
    place.refuses("evaluate grid --judged 10", 2, &["--judged", "0, or 64"]);
    place.refuses("evaluate samples --inception nowhere.safetensors", 2, &["nowhere.safetensors"]);
    place.refuses("evaluate samples --inception x --against mnist", 2, &["--against mnist"]);
    place.refuses(
        "train --config small.toml --eval-every 2 --against mnist",
        2,
        &["1×8×8", "--inception"],
    );
    place.refuses("evaluate samples --sampler flow-heun", 2, &["flow-heun"]);
    place.refuses("train --against mnist", 2, &["--against", "--eval-every"]);
    place.refuses("evaluate grid --judged 0 --inception x", 2, &["--inception", "--judged 0"]);
}

/// Reference images get the picture settings of the run's training: here, transparent pictures on
/// black. The same folder as reference gives the same metrics as the training set itself.
#[test]
fn reference_images_are_prepared_as_the_training_pictures_were() {
    let place = TestDir::new();
    for i in 0..80u8 {
        let path = place.write(&format!("set/{i}.png"), "");
        let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 28, 20);
        encoder.set_color(png::ColorType::GrayscaleAlpha);
        let pixels: Vec<u8> = (0..28 * 20u32)
            .flat_map(|p| if (p + u32::from(i)) % 9 < 3 { [255 - i, 255] } else { [0, 0] })
            .collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    }
    place.write("small.toml", "steps = 1\nbatch_size = 8\n[network]\nbase_channels = 16\ntime_dim = 16\n[sample_grid]\nnum = 0\n");
    place.ok("train --data set --size 28 --fit pad --background black --conditional=never \
         --config small.toml --run-dir run");
    let line = "evaluate samples --run run --num 64 --seeds 1 --steps 1 --json";
    place.ok(&format!("{line} own.json"));
    place.ok(&format!("{line} named.json --against set"));
    let distance = |file: &str| json(&place, file)["mean"]["frechet_distance"].as_f64().unwrap();
    assert_eq!(distance("own.json"), distance("named.json"));
    // `--training` gets the same settings: nothing else would find its copies.
    place.ok(&format!("{line} training.json --training set --against set"));
    let training = json(&place, "training.json");
    assert_eq!(training["sets"], json(&place, "named.json")["sets"]);
}

#[test]
fn everything_that_sample_wrote_can_be_evaluated() {
    let place = TestDir::new();
    let line = "sample --num 8 --sampler ddim --steps 2";
    // The pictures of several images are in the folder of the images, which does not exist yet.
    place.ok(&format!(
        "{line} --out new --grid new/grid.png --strip new/strip.png --gif new/film.gif \
         --trajectory new/steps"
    ));
    assert!(
        place.path("new/grid.png").is_file() && place.path("new/steps/step-0001.png").is_file()
    );
    place.ok("evaluate samples new --json new.json");
    assert_eq!(json(&place, "new.json")["sets"][0]["count"], 8);
    // As an array, the images are not rounded.
    place.ok(&format!("{line} --out array --format npy"));
    let answer = place.ok("evaluate samples array --json array.json");
    assert!(!answer.err.contains("WARN array: "), "{}", answer.err);
    let distance = |file: &str| json(&place, file)["mean"]["frechet_distance"].as_f64().unwrap();
    assert!((distance("new.json") - distance("array.json")).abs() < 1e-3);
}

#[test]
fn folders_are_prepared_with_the_flags_of_pictures() {
    let place = TestDir::new();
    for i in 0..80u8 {
        let path = place.write(&format!("clear/{i}.png"), "");
        let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 28, 28);
        encoder.set_color(png::ColorType::GrayscaleAlpha);
        let pixel = |p: u32| if (p + u32::from(i)) % 9 < 3 { [255 - i, 255] } else { [0, 0] };
        let pixels: Vec<u8> = (0..28 * 28u32).flat_map(pixel).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    }
    place.write("small.toml", "steps = 1\nbatch_size = 8\n[network]\nbase_channels = 16\ntime_dim = 16\n[sample_grid]\nnum = 0\n");
    place.ok("train --data clear --background black --conditional=never --config small.toml --run-dir run");
    let distance = |line: &str| {
        place.ok(&format!("evaluate samples {line} --json out.json"));
        json(&place, "out.json")["mean"]["frechet_distance"].as_f64().unwrap()
    };
    let on_white = distance("clear");
    let on_black = distance("clear --background black");
    assert!((on_white - on_black).abs() > 1.0, "{on_white} {on_black}");
    assert!(distance("clear --against clear --background black") < 1e-3);
    place.refuses("evaluate samples run --background black", 2, &["--background is for folders"]);
}

/// Writes 30 red and 30 blue pictures, which are lighter above than below.
fn colour_classes(place: &TestDir) {
    for (class, channel) in [("red", 0), ("blue", 2)] {
        let folder = place.path("colours").join(class);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..30u8 {
            let mut pixels = vec![0; 16 * 16 * 3];
            for (at, pixel) in pixels.chunks_exact_mut(3).enumerate() {
                pixel[channel] = 250 - 10 * (at / 16) as u8 - i;
            }
            let picture = diffusion_picture::Picture { width: 16, height: 16, channels: 3, pixels };
            picture.write_png(&folder.join(format!("{i}.png"))).unwrap();
        }
    }
}

/// Trains a judge of two classes, evaluates images with it, and gives it bad input.
#[test]
fn a_judge_of_ones_own_measures_colour_pictures() {
    let place = TestDir::new();
    colour_classes(&place);
    let answer = place.ok(
        "train-judge --data colours --size 16 --steps 30 --batch-size 16 --out colours.safetensors",
    );
    assert!(
        answer.out.contains("30 steps in") && answer.out.contains("judge of colours ("),
        "{}",
        answer.out
    );
    assert!(answer.out.contains("held-out pictures: 100.0 % for 2 classes"), "{}", answer.out);

    place.write("small.toml", DIGITS);
    let answer = place.ok(
        "train --data colours --size 16 --conditional --config small.toml --steps 3 --eval-every 2 --eval-num 64 \
         --judge colours.safetensors --run-dir run",
    );
    assert!(answer.err.contains("features of the judge of colours ("), "{}", answer.err);
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert!(last["samples"]["as_asked"].is_f64(), "{last}");
    assert!(last["judge"].as_str().unwrap().starts_with("features of the judge of colours ("));
    let page = fs::read_to_string(place.path("run/index.html")).unwrap();
    assert!(page.contains("features of the judge of colours ("));

    let answer = place.ok(
        "evaluate samples run --num 64 --seeds 1 --sampler ddim --steps 2 --judge colours.safetensors \
         --against colours --json out.json",
    );
    for part in ["class accuracy", "Fréchet distance", "class frequencies  blue: "] {
        assert!(answer.out.contains(part), "{part}\n{}", answer.out);
    }
    assert!(json(&place, "out.json")["judge"].as_str().unwrap().contains("judge of colours ("));
    place.ok(
        "evaluate grid --run run --samplers ddim --steps 2 --judged 64 --judge colours.safetensors",
    );
    place.ok("evaluate guidance --run run --scales 1,2 --per-class 4 --judge colours.safetensors");

    // Without classes, it learns rotations.
    let answer = place.ok(
        "train-judge --data colours/red --size 16 --steps 2 --batch-size 8 --out turned.safetensors",
    );
    assert!(answer.out.contains("for the four rotations"), "{}", answer.out);
    let answer =
        place.ok("evaluate samples colours --judge turned.safetensors --against colours/red");
    assert!(!answer.out.contains("class frequencies"), "{}", answer.out);

    let refused = |judge: &str, code, parts: &[&str]| {
        place.refuses(&format!("evaluate samples run --num 64 --judge {judge}"), code, parts);
    };
    refused("none.safetensors", 2, &["--judge", "none.safetensors"]);
    refused("run/config.toml", 1, &["config.toml", "not a whole safetensors file"]);
    refused("colours.safetensors --inception x", 2, &["--judge", "--inception"]);
    refused("colours.safetensors --against mnist", 2, &["--against mnist", "digit judge"]);
    place.refuses(
        "evaluate samples --num 64 --judge colours.safetensors",
        2,
        &["--judge", "3×16×16, got 1×28×28"],
    );
    place.refuses("train-judge --data colours --out no/where", 2, &["--out", "no folder"]);
    place.refuses("train-judge --data colours --augment 0.1", 2, &["--augment", "--flip"]);
}

#[test]
fn averages_of_any_length_are_compared_after_the_training() {
    let place = TestDir::new();
    place.write("digits.toml", DIGITS.replace("steps = 4\n[network]", "steps = 24\n[network]"));
    place.ok("train --config digits.toml --averages 5 --run-dir run");
    let saved = fs::read_dir(place.path("run/averages")).unwrap().count();
    assert!((5..=6).contains(&saved), "{saved}");
    let answer = place.ok(
        "evaluate ema --run run --lengths 0.05,0.1,0.2 --num 64 --plot ema.svg --json ema.json \
         --out best.safetensors",
    );
    for part in ["length", "0.2000", "smallest distance", "best.safetensors", "digit judge"] {
        assert!(answer.out.contains(part), "{part}\n{}", answer.out);
    }
    assert_eq!(json(&place, "ema.json")["lengths"].as_array().unwrap().len(), 3);
    assert!(fs::read_to_string(place.path("ema.svg")).unwrap().contains("<svg"));
    place.ok("sample --checkpoint best.safetensors --num 2 --steps 2 --out drawn");

    place.ok("train --config digits.toml --run-dir plain");
    place.refuses("evaluate ema --run plain", 1, &["saved no averages", "--averages"]);
    place.refuses("evaluate ema --run run --lengths 0.3", 2, &["at most 0.288"]);
    place.refuses("evaluate ema --run none", 2, &["--run", "none"]);
    place.refuses("train --averages 101", 2, &["--averages"]);
    place.refuses("evaluate ema --run run --step 3", 1, &["up to step 3", "step 4"]);
}

#[test]
fn a_training_on_few_pictures_keeps_some_for_validation_and_searches_for_copies() {
    let place = TestDir::new();
    place.write("digits.toml", DIGITS);
    own_pictures(&place, "few", 110);
    let answer = place.ok("train --config digits.toml --data few --run-dir few-run");
    assert!(answer.err.contains("other pictures are kept for validation"), "{}", answer.err);
    let metrics = fs::read_to_string(place.path("few-run/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert!(last["validation_loss"].is_f64() && last["samples"]["copies"].is_f64(), "{last}");
    assert!(last["judge"].is_null() && last["samples"]["validation_copies"].is_f64(), "{last}");
    let page = fs::read_to_string(place.path("few-run/index.html")).unwrap();
    assert!(page.contains("copies of training pictures"), "{page}");
    let config = fs::read_to_string(place.path("few-run/config.toml")).unwrap();
    assert!(config.contains("validation = 0.1"), "{config}");
    place.ok("train --run-dir few-run --resume --steps 6");
    let metrics = fs::read_to_string(place.path("few-run/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert!(last["step"] == 6 && last["samples"]["copies"].is_f64(), "{last}");

    let answer = place.ok("train --config digits.toml --data few --validation 0 --run-dir all");
    assert!(!answer.err.contains("kept for validation"), "{}", answer.err);
    // The configuration of that run keeps none either.
    let answer = place.ok("train --config all/config.toml --eval-every 0 --run-dir again");
    assert!(!answer.err.contains("kept for validation"), "{}", answer.err);
    assert!(!fs::read_to_string(place.path("again/metrics.jsonl")).unwrap().contains("copies"));
    own_pictures(&place, "fewer", 60);
    let answer = place.ok("train --config digits.toml --data fewer --run-dir fewer-run");
    assert!(!answer.err.contains("kept for validation"), "{}", answer.err);
}
