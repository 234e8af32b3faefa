//! `diffusion evaluate ema`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use candle_core::{Device, Tensor};
use diffusion_eval::FeatureMetrics;
use diffusion_files::write_file;
use diffusion_model::{Generation, LoadedModel, ModelState, RunLayout};
use diffusion_report::{Chart, Curve, Panel, Scale};
use diffusion_train::{PowerProfile, SavedAverages};
use serde_json::{Value, json};

use crate::args::data;
use crate::args::judging::{self, JudgeArgs};
use crate::args::numbers::whole;
use crate::args::runs;
use crate::session::interrupt;
use crate::session::progress::Progress;
use crate::session::usage::{CHARTS, bail_usage, check_input, check_output, check_picture};

/// Measure how the length of the moving average of the weights changes the quality of images
///
/// The command computes averages of several lengths from those that `train --averages` saved, and
/// generates the same number of images from the same noise with each (Karras et al. 2024). A length
/// is the standard deviation of the averaged steps, divided by the number of steps. A longer
/// average removes more of the noise of the training, but contains weights of an earlier time.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion train --averages 16 --run-dir runs/ema\n  \
                  diffusion evaluate ema --run runs/ema --plot ema.png --out best.safetensors\n  \
                  diffusion sample --checkpoint best.safetensors --num 64")]
pub(crate) struct EmaArgs {
    /// Folder of the run [default: the run that saved last in runs/]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Lengths to compare, separated by commas; above 0, at most 0.288
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "0.02,0.03,0.05,0.07,0.1,0.14,0.2", value_parser = length)]
    lengths: Vec<f64>,
    /// Compute the averages after N steps of the training, or after the last saved step before
    /// [default: after all steps]
    #[arg(long, value_name = "N", value_parser = whole(1..))]
    step: Option<u64>,
    /// Images to generate per length; 64 to 100,000
    ///
    /// More images give more precise metrics and take longer.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = whole(64..=100_000))]
    num: u64,
    /// Seed of the noise; 0 to 2^62 - 1
    #[arg(long, value_name = "SEED", default_value = "0", value_parser = whole(..1 << 62))]
    seed: u64,
    /// Also write the metrics as a chart over the length, PNG or SVG by the file's ending
    #[arg(long, value_name = "FILE.png|FILE.svg")]
    plot: Option<PathBuf>,
    /// Also write the table to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the model with the length of the smallest Fréchet distance to this file, for
    /// `sample --checkpoint`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    cache: data::CacheArgs,
}

/// The largest error of an average's profile without a warning.
const LARGEST_ERROR: f64 = 0.15;

/// Parses a length of an average.
fn length(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(length) if length > 0.0 && length <= PowerProfile::MAX_LENGTH => Ok(length),
        _ => Err(format!("expected a number above 0, at most {}", PowerProfile::MAX_LENGTH)),
    }
}

pub(super) fn run(args: &EmaArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    if let Some(path) = &args.plot {
        check_picture("--plot", path, &CHARTS)?;
    }
    for (flag, path) in [("--json", &args.json), ("--out", &args.out)] {
        if let Some(path) = path {
            check_output(flag, path)?;
        }
    }
    let layout = match &args.run {
        Some(run) => {
            check_input("--run", run)?;
            RunLayout::new(run)
        }
        None => match runs::latest() {
            Some(layout) => layout,
            None => bail_usage!("there is no run in runs/; name one with --run"),
        },
    };
    layout.check()?;
    let checkpoint = layout.latest_checkpoint()?;
    let mut state = ModelState::read(&checkpoint)?;
    let saved = SavedAverages::open(&layout, args.step.unwrap_or(state.step))?;
    state.step = saved.steps().last().copied().unwrap_or(state.step);
    let shape = state.model.image_shape;
    let evaluator = args.judge.evaluator_of_model(
        Some(&checkpoint),
        shape,
        None,
        &args.cache,
        device,
        quiet,
    )?;
    let Some(judge) = evaluator.judge() else { bail_usage!("{}", judging::NEEDS_JUDGE) };
    println!(
        "{} (step {}), averages saved {} times, {} images from seed {}",
        layout.root().display(),
        state.step,
        saved.steps().len(),
        args.num,
        args.seed
    );
    println!("{}", judging::description(&evaluator));
    let mut progress = Progress::new("sampling", args.lengths.len() as u64 * args.num, quiet);
    let mut rows: Vec<(f64, FeatureMetrics)> = Vec::new();
    for (place, &length) in (0u64..).zip(&args.lengths) {
        let (weights, error) = saved.average(length)?;
        if error > LARGEST_ERROR {
            tracing::warn!(
                "the saved averages are too few for the length {length}: the share of each step \
                 has an error of {:.0} %; train with a larger number of --averages",
                error * 100.0
            );
        }
        let model = model(weights, &state, device)?;
        let generation = Generation { seed: args.seed, ..Generation::new(args.num) };
        let images = model.generate(&generation, &mut |p| {
            let done = p.range.start as u64;
            progress.advance(place * args.num + done, || {
                format!("length {length}, image {done} of {}", args.num)
            });
            interrupt::flow()
        });
        let images = match images {
            Err(e) if e.is_cancelled() => {
                progress.finish();
                println!("stopped before all lengths were evaluated");
                return Ok(ExitCode::from(interrupt::exit_code()));
            }
            images => images?.clamp(-1f32, 1f32)?,
        };
        rows.push((length, judge.metrics(&images, &[])?));
    }
    progress.finish();
    print_table(&rows);
    let best = rows
        .iter()
        .min_by(|(_, a), (_, b)| a.quality.frechet_distance.total_cmp(&b.quality.frechet_distance));
    if let Some((length, metrics)) = best {
        let distance = metrics.quality.frechet_distance;
        println!("smallest distance: {distance:.4} at length {length}");
        if let Some(path) = &args.out {
            let (average, _) = saved.average(*length)?;
            let bytes = LoadedModel::pack_weights(state.clone(), average, path)?;
            write_file(path, &bytes).context("--out")?;
            println!("the model with this length: {}", path.display());
        }
    }
    if let Some(path) = &args.plot {
        chart(&rows).write(path)?;
        println!("plot: {}", path.display());
    }
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", as_json(&rows, judge.extractor().features_name()));
        write_file(path, text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The model with `weights`.
fn model(
    weights: BTreeMap<String, Tensor>,
    state: &ModelState,
    device: &Device,
) -> anyhow::Result<LoadedModel> {
    let weights = weights.into_iter().map(|(name, weight)| Ok((name, weight.to_device(device)?)));
    let weights = weights.collect::<candle_core::Result<_>>()?;
    let name = "the average of the weights".as_ref();
    Ok(LoadedModel::new(state.model.clone(), state.step, weights, name, device)?)
}

fn print_table(rows: &[(f64, FeatureMetrics)]) {
    for (i, (length, metrics)) in rows.iter().enumerate() {
        if i == 0 {
            let names = ["length", metrics.distance_name, "precision", "recall", "coverage"];
            println!("{}", names.map(|name| format!("{name:>18}")).concat());
        }
        let line = numbers(*length, metrics).map(|(_, number)| format!("{number:>18.4}"));
        println!("{}", line.concat());
    }
}

/// The columns of the table: JSON key and value.
fn numbers(length: f64, metrics: &FeatureMetrics) -> [(&'static str, f64); 5] {
    let quality = &metrics.quality;
    [
        ("length", length),
        ("frechet_distance", quality.frechet_distance),
        ("precision", quality.agreement.precision),
        ("recall", quality.agreement.recall),
        ("coverage", quality.agreement.coverage),
    ]
}

fn chart(rows: &[(f64, FeatureMetrics)]) -> Chart {
    let panel = |name: &str, column: usize, y_scale: Scale| {
        let points: Vec<(f64, f64)> =
            rows.iter().map(|(length, row)| (*length, numbers(*length, row)[column].1)).collect();
        let curves = vec![Curve::new("the model, by length of the average", points)];
        Panel { y: name.to_owned(), y_scale, y_range: None, curves }
    };
    Chart {
        title: "Quality by length of the moving average".to_owned(),
        x: "length".to_owned(),
        x_scale: Scale::Logarithmic,
        panels: vec![
            panel("Fréchet distance", 1, Scale::Logarithmic),
            panel("precision", 2, Scale::Linear),
            panel("recall", 3, Scale::Linear),
            panel("coverage", 4, Scale::Linear),
        ],
    }
}

fn as_json(rows: &[(f64, FeatureMetrics)], judge: String) -> Value {
    let row = |(length, metrics): &(f64, FeatureMetrics)| {
        let mut json = json!({ "count": metrics.quality.count });
        for (key, number) in numbers(*length, metrics) {
            json[key] = number.into();
        }
        json
    };
    json!({ "judge": judge, "lengths": rows.iter().map(row).collect::<Vec<_>>() })
}
