//! The commands that analyse schedules, models and networks.

use std::fs;

use serde_json::Value;

use crate::common::{TestDir, names};

/// Width, height and colour type of a PNG.
fn png_size(path: &std::path::Path) -> (u32, u32, u8) {
    let png = fs::read(path).unwrap();
    assert_eq!(&png[..4], b"\x89PNG");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20), png[25])
}

#[test]
fn schedules_are_compared_in_a_table_a_chart_json_and_csv() {
    let place = TestDir::new();
    let answer = place.ok("schedule compare --plot chart.png");
    for row in [
        "500       0.077797    -10.74       0.492285     -0.13",
        "t = 259 of 1000",
        "t = 496 of 1000",
    ] {
        assert!(answer.out.contains(row), "{row}\n{}", answer.out);
    }
    assert!(answer.out.contains("cosine keeps the signal longest"), "{}", answer.out);
    assert_eq!(png_size(&place.path("chart.png")).2, 2);

    let json: Value = serde_json::from_str(
        &place.ok("schedule compare --json --at 3,999 --schedules cosine,linear").out,
    )
    .unwrap();
    assert_eq!(json["schedules"][1]["first_below_0_db"], 259);
    assert_eq!(json["schedules"][0]["at"][0]["t"], 3);
    assert_eq!(json["longest_signal"][0], "cosine");

    let csv = place.ok("schedule compare --csv --timesteps 200").out;
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "t,linear alpha_cumprod,linear snr_db,cosine alpha_cumprod,cosine snr_db");
    let last: Vec<f64> =
        lines[lines.len() - 1].split(',').map(|cell| cell.parse().unwrap()).collect();
    assert!(last[0] == 199.0 && (last[1] - 0.132).abs() < 1e-3, "{last:?}");
}

#[test]
fn a_schedule_may_come_from_a_file_or_a_run() {
    let place = TestDir::new();
    place
        .write("gentle.toml", "[schedule]\nnum_train_timesteps = 50\nbeta_schedule = \"linear\"\n");
    place.write(
        "model/scheduler_config.json",
        r#"{"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear"}"#,
    );
    place.train_small("runs/small", 1);
    let out = place
        .ok("schedule compare --schedules gentle.toml,model,runs/small,linear --at 0,49,999 --plot c.svg")
        .out;
    for part in
        ["gentle", "model", "small", "of 1000", "gentle: never more noise than signal; it ends at"]
    {
        assert!(out.contains(part), "{part}\n{out}");
    }
    assert!(fs::read_to_string(place.path("c.svg")).unwrap().contains("gentle"));
}

#[test]
fn wrong_schedules_timesteps_and_file_names_are_explained() {
    let place = TestDir::new();
    place.write(
        "flow.toml",
        "prediction_type = \"flow_prediction\"\n[schedule]\nnum_train_timesteps = 50\n",
    );
    place.write("edm.json", r#"{"_class_name": "EDMEulerScheduler"}"#);
    place.write("empty.toml", "");
    for (line, part) in [
        (
            "schedule compare --schedules linaer",
            "unknown schedule `linaer`; expected linear, cosine",
        ),
        ("schedule compare --at 1000", "the last timestep is 999"),
        ("schedule compare --plot chart.jpg", ".png or .svg"),
        ("schedule compare --plot none/chart.png", "there is no folder none"),
        ("schedule show-noise --index 10000", "there are 10000 pictures"),
        ("evaluate predictors --bins 500", "there are 200 timesteps"),
        ("model analyze --channels 8,x", "whole numbers"),
        ("model analyze --channels 64 --size 63", "a multiple of 2"),
        ("model analyze --preset mnist --size 30", "multiples of 4"),
        ("model analyze --preset mnist --size 65536", "pixels"),
        ("model analyze --batch-size 4", "--batch-size is for a real network"),
        ("schedule show-noise --out noise.jpg", "must end in .png"),
        ("evaluate predictors --limit 3", "--limit is for pictures of --data"),
        ("schedule compare --schedules flow.toml", "a flow has no schedule"),
        ("schedule compare --schedules edm.json", "EDMEulerScheduler has no schedule"),
        ("schedule compare --schedules empty.toml", "it is empty"),
    ] {
        let answer = place.run(line);
        assert_eq!(answer.code, Some(2), "{line}\n{}", answer.err);
        assert!(answer.err.contains(part), "{line}: {}", answer.err);
    }
    assert!(names(&place.path(".")).iter().all(|name| !name.contains("chart")));
}

#[test]
fn noise_is_shown_on_one_picture() {
    let place = TestDir::new();
    place.ok("schedule show-noise --schedules linear,cosine,sigmoid --at 0,500 --timesteps 1000 --index 4");
    let (width, height, colour) = png_size(&place.path("noise.png"));
    assert!(width > 2 * 84 && height > 3 * 84 && colour == 2);
    let first = fs::read(place.path("noise.png")).unwrap();
    place.ok("schedule show-noise --schedules linear,cosine,sigmoid --at 0,500 --index 4 --out again.png");
    assert_eq!(
        first,
        fs::read(place.path("again.png")).unwrap(),
        "the noise follows from the seed"
    );
}

#[test]
fn predictors_are_measured_with_and_without_a_model() {
    let place = TestDir::new();
    let out = place.ok("evaluate predictors --plot errors.png").out;
    assert!(out.contains("50 images of 1×32×32") && out.contains("150-199"), "{out}");
    assert!(out.contains("check: perfect is exactly 0 in all bins"), "{out}");
    // The check repeats the numbers of the tables.
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    let table = |name: &str, place: usize| {
        rows.iter().filter(|row| row.first() == Some(&name)).nth(place).unwrap()
    };
    for (name, column, expected) in [("zero", 1, 1), ("random", 4, 2)] {
        let [mean, error] = [0, 2].map(|i| table("all", 0)[column + i]);
        let measured =
            format!("check: {name} in epsilon is {mean} ± {error}, expected {expected}: ");
        assert!(out.contains(&measured), "{measured}\n{out}");
    }
    let image = |bin: &str| table(bin, 1)[1..4].join(" ");
    let growth = format!("image's scale goes from {} to {}", image("0-49"), image("150-199"));
    assert!(out.contains(&growth), "{growth}\n{out}");
    png_size(&place.path("errors.png"));
    place.train_small("run", 2);
    let of_checkpoint =
        place.ok("evaluate predictors --checkpoint run/checkpoints/step-0000002 --limit 5").out;
    assert!(of_checkpoint.contains("5 images of 1×8×8"), "{of_checkpoint}");
    let json = place.ok("evaluate predictors --run run --limit 8 --bins 2 --json").out;
    let json: Value = serde_json::from_str(&json).unwrap();
    let of = |i: usize| &json["predictors"][i];
    assert_eq!((json["images"].as_u64(), of(3)["name"].as_str()), (Some(8), Some("step 2")));
    let mean = |i: usize| of(i)["overall"]["epsilon"]["mean"].as_f64().unwrap();
    assert!((mean(0) - 1.0).abs() < 0.2 && (mean(1) - 2.0).abs() < 0.4 && mean(2) == 0.0);
    assert_eq!(of(3)["bins"][1]["last"], 19);
}

#[test]
fn a_model_is_evaluated_on_the_validation_set_of_its_run() {
    let place = TestDir::new();
    place.train_small("plain", 2);
    place.ok("train --config small.toml --run-dir kept --steps 2 --validation 0.01");
    let out = place.ok("evaluate model --run plain --num 8 --bins 2 --plot model.png").out;
    for part in [
        "8 images of 1×8×8, of the 10000 pictures that the model was trained on",
        "10-19",
        "L_0",
        "total",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    png_size(&place.path("model.png"));

    let json =
        place.ok("evaluate model --run kept --num 8 --bins 4 --looks 2 --json --threads 2").out;
    assert_eq!(
        json,
        place.ok("evaluate model --run kept --num 8 --bins 4 --looks 2 --json --threads 1").out
    );
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(
        json["pictures"].as_str().unwrap().ends_with("that the run kept out of training"),
        "{json}"
    );
    let mean = |of: &Value| of["mean"].as_f64().unwrap();
    let bound = &json["bits_per_dimension"];
    let parts: f64 = ["prior", "steps", "decoder"].iter().map(|part| mean(&bound[part])).sum();
    assert!((parts - mean(&bound["total"])).abs() < 1e-9 && parts > 0.0, "{bound}");
    let rows: f64 = json["bins"].as_array().unwrap().iter().map(|bin| mean(&bin["bits"])).sum();
    assert!((rows + mean(&bound["prior"]) - parts).abs() < 1e-9, "{json}");

    let small = fs::read_to_string(place.path("small.toml")).unwrap();
    place.write("flow.toml", format!("prediction_type = \"flow_prediction\"\n{small}"));
    place.ok("train --config flow.toml --run-dir flow --steps 1");
    let out = place.ok("evaluate model --run flow --num 8 --bins 2").out;
    assert!(out.contains("500-999") && out.contains("no bits/dim: the bound is a sum"), "{out}");
    place.refuses(
        "evaluate model --run flow --variance fixed-small",
        2,
        &["flow models have no bound"],
    );
    place.refuses(
        "evaluate model --run kept --validation 0.5",
        2,
        &["the run's own pictures are already split"],
    );
    place.refuses("evaluate model --run kept --bins 21", 2, &["there are 20 timesteps"]);
}

#[test]
fn networks_are_analysed_as_sketches_and_as_built() {
    let place = TestDir::new();
    let out = place.ok("model analyze --plot sketch.svg").out;
    assert!(out.contains("4,214,016") && out.contains("4,282,880"), "{out}");
    assert!(fs::read_to_string(place.path("sketch.svg")).unwrap().contains("bottleneck"));
    let json: Value =
        serde_json::from_str(&place.ok("model analyze --preset mnist --json --plot net.png").out)
            .unwrap();
    assert_eq!(json["parameters"], 520_193);
    assert_eq!(json["parts"][1]["name"], "stem");
    png_size(&place.path("net.png"));
    place.train_small("run", 1);
    let out = place.ok("model analyze --run run --batch-size 4").out;
    assert!(out.contains("4 images of 1×8×8") && out.contains("peak of maps, training"), "{out}");
}

#[test]
fn a_run_leaves_its_losses_its_animation_and_a_page() {
    let place = TestDir::new();
    let small = place.write("small.toml", SMALL);
    place.ok(&format!("train --config {} --steps 4 --run-dir run", small.display()));
    let page = fs::read_to_string(place.path("run/index.html")).unwrap();
    for part in [
        "<svg",
        "data:image/gif;base64,",
        "data:image/png;base64,",
        "step 4",
        "num_train_timesteps",
        "sample --run",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(
        page.matches("src=\"").count() == page.matches("src=\"data:").count()
            && !page.contains("href"),
        "the page needs no other files"
    );
    png_size(&place.path("run/loss.png"));
    assert_eq!(&fs::read(place.path("run/samples.gif")).unwrap()[..6], b"GIF89a");
}

#[test]
fn a_dry_run_prints_estimates_and_creates_no_run() {
    let place = TestDir::new();
    let out = place.ok("train --preset digits-attn --steps 2000 --batch-size 4 --dry-run").out;
    for part in [
        "prediction_type = \"v_prediction\"",
        "mid_block",
        "949185 parameters",
        "s a step",
        "about 2000 steps in",
        "of checkpoints",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn metrics_go_to_event_files_too() {
    let place = TestDir::new();
    let small = place.write("small.toml", SMALL);
    let small = small.display();
    place.ok(&format!("train --config {small} --steps 3 --run-dir run --tensorboard"));
    let files = names(&place.path("run/tensorboard"));
    assert_eq!(files.len(), 1, "{files:?}");
    let events = fs::read(place.path("run/tensorboard").join(&files[0])).unwrap();
    let count = events.windows(10).filter(|window| window == b"loss/train").count();
    assert_eq!(count, 3);
}

/// A network that trains fast.
const SMALL: &str = "batch_size = 4\nsize = 8\n[network]\nkind = \"simple_unet\"\nbase_channels = 16\ntime_dim = 16\n\
                     [sample_grid]\nsteps = 2\nnum = 2\n";

#[test]
fn sampling_can_be_shown_as_gif_and_strip() {
    let place = TestDir::new();
    place.train_small("run", 1);
    place.ok("sample --run run --num 3 --steps 5 --gif way.gif --strip way.png --out out");
    assert_eq!(&fs::read(place.path("way.gif")).unwrap()[..6], b"GIF89a");
    let (width, height, _) = png_size(&place.path("way.png"));
    assert!(width > 5 * 84 && height > 6 * 84, "{width}×{height}");
    let answer = place.run("sample --run run --num 1 --gif none/way.gif --out out");
    assert!(answer.code == Some(2) && answer.err.contains("no folder none"), "{}", answer.err);
}

#[test]
fn a_closed_output_pipe_exits_141_without_an_error() {
    let place = TestDir::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = place.command("schedule compare").stdout(writer).output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()),
        (Some(141), "")
    );
}
