//! `diffusion evaluate guidance`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use diffusion_eval::FeatureMetrics;
use diffusion_files::write_file;
use diffusion_model::{ClassChoice, Generation, Weights};
use diffusion_report::{Cell, Chart, Curve, Panel, Scale};
use diffusion_sample::Guidance;
use serde_json::{Value, json};

use crate::args::data;
use crate::args::judging::{self, JudgeArgs};
use crate::args::numbers::{scale, whole};
use crate::args::runs::ModelArgs;
use crate::session::interrupt;
use crate::session::progress::Progress;
use crate::session::usage::{CHARTS, bail_usage, check_output, check_picture};

/// Measure how the guidance scale changes the quality and diversity of images
///
/// Under every scale, the command generates the same number of images of each class from the same
/// noise. The table shows per scale: class accuracy, the share of images in which the judge
/// recognises the given class; the Fréchet distance from real images; precision, recall and
/// coverage; and diversity, the mean distance between two images of a class in the judge's feature
/// space. The model must be class-conditional and trained with class dropout, the default of `train
/// --conditional`.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  diffusion evaluate guidance --run runs/mnist-1 --per-class 100 --plot guidance.png --grid scales.png"
)]
pub(crate) struct GuidanceArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Guidance scales to compare, separated by commas; -1000 to 1000
    ///
    /// 0 ignores the class, 1 is no extra guidance, larger scales follow the class more strictly
    /// (Ho & Salimans 2022).
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "0,1,1.1,1.25,1.5,2,3,4,6", value_parser = scale)]
    scales: Vec<f64>,
    /// Images to generate per class and scale; 1 to 10,000
    ///
    /// More images give more precise metrics and take longer.
    #[arg(long, value_name = "N", default_value = "100", value_parser = whole(1..=10_000))]
    per_class: u64,
    /// Seed of the noise; 0 to 2^62 - 1
    #[arg(long, value_name = "SEED", default_value = "0", value_parser = whole(..1 << 62))]
    seed: u64,
    /// Also write the metrics as a chart over the scale, PNG or SVG by the file's ending
    #[arg(long, value_name = "FILE.png|FILE.svg")]
    plot: Option<PathBuf>,
    /// Also write one image of each class under each scale to this PNG file
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
    /// Also write the table to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    cache: data::CacheArgs,
}

pub(super) fn run(args: &GuidanceArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    for (flag, path, endings) in
        [("--plot", &args.plot, &CHARTS[..]), ("--grid", &args.grid, &["png"])]
    {
        if let Some(path) = path {
            check_picture(flag, path, endings)?;
        }
    }
    if let Some(path) = &args.json {
        check_output("--json", path)?;
    }
    let found = args.model.open(Weights::Ema, device)?;
    let (model, description) = (&found.model, &found.model.description);
    let classes = description.classes.len();
    if description.check_classifier_free().is_err() {
        bail_usage!(
            "the model was trained without classes or without class dropout, so classifier-free \
             guidance is impossible; train one with `train --conditional`"
        );
    }
    let shape = description.image_shape;
    let checkpoint = found.checkpoint.as_deref();
    let evaluator =
        args.judge.evaluator_of_model(checkpoint, shape, None, &args.cache, device, quiet)?;
    let Some(judge) = evaluator.judge() else { bail_usage!("{}", judging::NEEDS_JUDGE) };
    let sampler = model.objective.default_sampler(description.learned_variance());
    let steps = model.objective.default_steps(sampler);
    let num = args.per_class * classes as u64;
    judging::check_number(&evaluator, "--per-class", num as usize)?;
    println!(
        "{}, {} in {steps} steps, {} images for each of {classes} classes",
        found.name(),
        sampler.name(),
        args.per_class
    );
    println!("{}", judging::description(&evaluator));
    let names: Vec<Option<&str>> =
        (0..num as usize).map(|i| Some(description.classes[i % classes].name.as_str())).collect();

    let mut progress = Progress::new("sampling", args.scales.len() as u64 * num, quiet);
    let (mut rows, mut cells) = (Vec::new(), Vec::new());
    for (place, &scale) in (0u64..).zip(&args.scales) {
        let generation = Generation {
            seed: args.seed,
            classes: ClassChoice::Listed((0..classes as u32).collect()),
            guidance: Some(Guidance::new(scale)),
            ..Generation::new(num)
        };
        let images = model.generate(&generation, &mut |p| {
            let done = p.range.start as u64;
            progress
                .advance(place * num + done, || format!("scale {scale}, image {done} of {num}"));
            interrupt::flow()
        });
        let images = match images {
            Err(e) if e.is_cancelled() => {
                progress.finish();
                println!("stopped before all scales were evaluated");
                return Ok(ExitCode::from(interrupt::exit_code()));
            }
            images => images?.clamp(-1f32, 1f32)?,
        };
        let shown =
            diffusion_picture::from_tensor(&images.narrow(0, 0, classes.min(num as usize))?)?;
        let row: Cell =
            diffusion_picture::grid_with_columns(&shown, shown.len())?.enlarged(2).into();
        cells.push(vec![row]);
        rows.push((scale, judge.metrics(&images, &names)?));
    }
    progress.finish();
    print_table(&rows);
    if let Some(path) = &args.plot {
        chart(&rows).write(path)?;
        println!("plot: {}", path.display());
    }
    if let Some(path) = &args.grid {
        let names: Vec<String> = rows.iter().map(|(scale, _)| format!("scale {scale}")).collect();
        diffusion_report::sheet(&cells, &names, &[String::new()])?.write_sheet(path)?;
        println!("grid: {}", path.display());
    }
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", as_json(&rows));
        write_file(path, text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The columns of the table: heading, JSON key and value.
fn columns(metrics: &FeatureMetrics) -> [(&'static str, &'static str, Option<f64>); 6] {
    let quality = &metrics.quality;
    [
        ("class accuracy", "as_asked", metrics.class_accuracy),
        (metrics.distance_name, "frechet_distance", Some(quality.frechet_distance)),
        ("precision", "precision", Some(quality.agreement.precision)),
        ("recall", "recall", Some(quality.agreement.recall)),
        ("coverage", "coverage", Some(quality.agreement.coverage)),
        ("diversity", "diversity", metrics.diversity),
    ]
}

fn print_table(rows: &[(f64, FeatureMetrics)]) {
    for (i, (scale, metrics)) in rows.iter().enumerate() {
        let columns = columns(metrics);
        if i == 0 {
            let names = columns.map(|(name, ..)| format!("{name:>18}"));
            println!("{:>6}{}", "scale", names.concat());
        }
        let values = columns.map(|(.., value)| {
            let value = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
            format!("{value:>18}")
        });
        println!("{scale:>6}{}", values.concat());
    }
}

/// The trade-off as curves over the scale: class accuracy and Fréchet distance against diversity.
fn chart(rows: &[(f64, FeatureMetrics)]) -> Chart {
    let value_of =
        |row: &FeatureMetrics, key: &str| columns(row).into_iter().find(|(_, k, _)| *k == key)?.2;
    let panels = [
        ("class accuracy", "as_asked", Scale::Linear),
        ("Fréchet distance", "frechet_distance", Scale::Logarithmic),
        ("recall", "recall", Scale::Linear),
        ("diversity", "diversity", Scale::Linear),
    ];
    let panel = |(name, key, y_scale): (&str, &str, Scale)| {
        let points: Vec<(f64, f64)> =
            rows.iter().filter_map(|(scale, row)| Some((*scale, value_of(row, key)?))).collect();
        let curves = vec![Curve::new("the model, by guidance scale", points)];
        Panel { y: name.to_owned(), y_scale, y_range: None, curves }
    };
    let present = panels
        .into_iter()
        .filter(|(_, key, _)| rows.iter().any(|(_, row)| value_of(row, key).is_some()));
    Chart {
        title: "Quality and diversity by guidance scale".to_owned(),
        x: "guidance scale".to_owned(),
        x_scale: Scale::Linear,
        panels: present.map(panel).collect(),
    }
}

fn as_json(rows: &[(f64, FeatureMetrics)]) -> Value {
    let row = |(scale, metrics): &(f64, FeatureMetrics)| {
        let mut json = json!({ "scale": scale, "count": metrics.quality.count });
        for (_, key, value) in columns(metrics) {
            json[key] = value.into();
        }
        json
    };
    rows.iter().map(row).collect()
}
