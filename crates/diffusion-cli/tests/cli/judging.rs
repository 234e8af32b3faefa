//! Generated images beside real ones, and the model that comes with the program.

use std::fs;

use serde_json::Value;

use crate::common::Workplace;

/// A training of a moment on the digits as they are.
const DIGITS: &str = "batch_size = 4\nsteps = 4\n[network]\nbase_channels = 16\ntime_dim = 8\n[schedule]\n\
                      num_train_timesteps = 20\nbeta_schedule = \"linear\"\nbeta_start = 5e-3\nbeta_end = 0.6\n[sample_grid]\nnum = 2\nsteps = 2\n";

fn json(place: &Workplace, name: &str) -> Value {
    serde_json::from_slice(&fs::read(place.path(name)).unwrap()).unwrap()
}

#[test]
fn digits_are_drawn_and_judged_before_anything_was_trained() {
    let place = Workplace::new();
    let answer = place.ok("sample --num 70 --sampler dpmpp-2m --steps 4 --out digits");
    assert!(answer.out.contains("by the model that comes with the program"), "{}", answer.out);
    assert!(answer.err.contains("there is no run in runs/ yet"), "{}", answer.err);

    let answer = place.ok("evaluate samples digits --against mnist --training mnist --json digits.json");
    for part in
        ["Fréchet distance", "recall", "copies of training pictures", "10,000 test digits", "70 images"]
    {
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

    // The same images, drawn once more, but for what eight bits a pixel leave out.
    place.ok("evaluate samples --num 70 --seeds 1 --sampler dpmpp-2m --steps 4 --json model.json");
    let of_model = json(&place, "model.json");
    assert!(of_model["what"].as_str().unwrap().contains("comes with the program"));
    let distance = |json: &Value| json["sets"][0]["frechet_distance"].as_f64().unwrap();
    assert!((distance(&of_model) / distance(&of_folder) - 1.0).abs() < 0.05, "{of_model} {of_folder}");
}

#[test]
fn the_spread_is_that_of_the_seeds() {
    let place = Workplace::new();
    place.write("digits.toml", DIGITS);
    place.ok("train --config digits.toml --run-dir run");
    let line = "evaluate samples run --num 64 --seeds 2 --sampler ddim --steps 2 --json two.json";
    let answer = place.ok(line);
    let sets = json(&place, "two.json")["sets"].clone();
    let values: Vec<f64> = (0..2).map(|i| sets[i]["frechet_distance"].as_f64().unwrap()).collect();
    let (mean, spread) = (f64::midpoint(values[0], values[1]), (values[0] - values[1]).abs() / 2f64.sqrt());
    let row = answer.out.lines().find(|line| line.starts_with("Fréchet distance")).unwrap();
    assert!(
        row.contains(&format!("{mean:.4}")) && row.contains(&format!("{spread:.4}")),
        "{row} {mean} {spread}"
    );
}

#[test]
fn a_training_is_judged_on_its_way() {
    let place = Workplace::new();
    place.write("digits.toml", DIGITS);
    place.ok("train --config digits.toml --run-dir run --eval-every 2 --eval-num 64 --tensorboard");
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (i, line) in lines.iter().enumerate() {
        let distance = line["samples"]["frechet_distance"].as_f64();
        assert_eq!(distance.is_some_and(|distance| distance > 0.0), i % 2 == 1, "{line}");
    }
    let page = fs::read_to_string(place.path("run/index.html")).unwrap();
    assert!(page.contains("Judged samples") && page.contains("coverage"));
}

#[test]
fn samplers_are_judged_beside_their_seconds() {
    let place = Workplace::new();
    let answer = place.ok("evaluate grid --samplers ddim,dpmpp-2m --steps 2,6 --num 4 --judged 64");
    let distances = answer.out.lines().skip_while(|line| !line.starts_with("distance")).skip(1);
    for line in distances.take(2) {
        let numbers: Vec<f64> =
            line.split_whitespace().skip(1).map(|number| number.parse().unwrap()).collect();
        assert!(numbers.len() == 2 && numbers[1] < numbers[0], "{line}");
    }
}

#[test]
fn what_cannot_be_judged_is_refused() {
    let place = Workplace::new();
    place.train_small("run", 1);
    place.refuses("evaluate samples run", 2, &["1×8×8", "--inception"]);
    place.refuses("evaluate samples nowhere --against mnist", 1, &["nowhere"]);
    place.refuses("evaluate samples run run", 2, &["a model is judged alone"]);
    place.refuses("evaluate samples --against nowhere", 2, &["nowhere"]);
    place.refuses("evaluate samples --inception nowhere.safetensors", 1, &["nowhere.safetensors"]);
    place.refuses("evaluate samples --inception x --against mnist", 2, &["--against mnist"]);
    place.refuses("train --config small.toml --eval-every 2", 2, &["1×8×8", "--inception"]);
    place.refuses("evaluate samples --sampler flow-heun", 2, &["flow-heun"]);
}
