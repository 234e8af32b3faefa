//! `diffusion data inspect`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use diffusion_data::{ImageDataset, PictureConfig, Report, Source};
use diffusion_picture::Picture;
use serde_json::json;

use crate::args::data;
use crate::session::interrupt;

/// Rows of a contact sheet, at most.
const SHEET_ROWS: usize = 20;
const SHEET_COLUMNS: usize = 10;
/// Letters of a class name in a contact sheet, at most.
const SHEET_LETTERS: usize = 24;
/// Sizes and classes in a printed list, at most.
const SHOWN: usize = 20;

/// Report the contents of a source of pictures and draw a contact sheet
///
/// The report lists the number of pictures, their sizes, formats and classes, the mean and standard
/// deviation of the pixels, and damaged files. The pictures are prepared as for `train` and stay in
/// the cache. The contact sheet shows up to 10 pictures of each of the first 20 classes, as
/// training sees them.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion data inspect photos --size 32\n  diffusion data inspect mnist --json",
    mut_arg("max_bad", |arg| arg.help(
        "Fail if more than N pictures are damaged; at least 0 [default: no limit]"
    ).long_help(
        "Fail if more than N pictures are damaged; at least 0 [default: no limit]"
    ))
)]
pub(crate) struct InspectArgs {
    /// Pictures to inspect: any source that `train --data` accepts
    path: PathBuf,
    /// Write the contact sheet to this file, as PNG
    #[arg(long, value_name = "FILE", default_value = "contact-sheet.png")]
    sheet: PathBuf,
    /// Print one JSON object instead of the report
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pictures: data::PictureArgs,
    #[command(flatten)]
    cache: data::CacheArgs,
}

pub(super) fn run(args: &InspectArgs, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    let (mut size, mut config) =
        (None, PictureConfig { max_bad: usize::MAX, ..PictureConfig::default() });
    args.pictures.apply(&mut size, &mut config);
    if let Some((field, value, expected)) = config.problem() {
        crate::session::usage::bail_usage!("{field}: {value}: {expected}");
    }
    let source = data::open(Some(&data::resolve(&args.path)?))?;
    let prepared = data::prepare_pictures(&source, size, &config, &args.cache, quiet)?;
    let (dataset, validation) = data::select(prepared.dataset, &config)?;
    let statistics = Statistics::new(&dataset);
    contact_sheet(&dataset)?.write_sheet(&args.sheet)?;
    if args.json {
        println!("{:#}", as_json(&source, &prepared.report, &dataset, &statistics, &args.sheet));
    } else {
        print!("{}", as_text(&source, &prepared.report, &dataset, &statistics));
        if let Some(validation) = validation {
            println!("kept for validation: {} pictures", validation.len());
        }
        println!("contact sheet: {}", args.sheet.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Statistics of a data set; pixels are in \[0, 1\], black is 0.
struct Statistics {
    /// Mean and standard deviation of each channel.
    channels: Vec<(f64, f64)>,
    /// Number of pictures of each class.
    per_class: Vec<usize>,
    unlabelled: usize,
}

impl Statistics {
    fn new(dataset: &ImageDataset) -> Self {
        // A histogram of the 256 byte values makes the sums exact.
        let mut counts = vec![[0u64; 256]; dataset.image_shape()[0]];
        let mut per_class = vec![0; dataset.classes().len()];
        let mut unlabelled = 0;
        for i in 0..dataset.len() {
            let image = dataset.image(i);
            for (plane, counts) in image.chunks_exact(image.len() / counts.len()).zip(&mut counts) {
                for byte in plane {
                    counts[usize::from(*byte)] += 1;
                }
            }
            match dataset.label(i) {
                Some(label) => per_class[label as usize] += 1,
                None => unlabelled += 1,
            }
        }
        let channels = counts.iter().map(|counts| {
            let sum = |power: i32| -> f64 {
                (0..256).map(|byte| counts[byte] as f64 * (byte as f64 / 255.0).powi(power)).sum()
            };
            let mean = sum(1) / sum(0);
            (mean, (sum(2) / sum(0) - mean * mean).max(0.0).sqrt())
        });
        Self { channels: channels.collect(), per_class, unlabelled }
    }
}

fn as_text(
    source: &Source,
    report: &Report,
    dataset: &ImageDataset,
    statistics: &Statistics,
) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("{}: {}", source.path().display(), source.description()));
    line(format!("prepared for training: {}", data::describe(None, source, report, dataset)));
    let mut sizes = report.sizes.clone();
    sizes.sort_by_key(|(width, height, count)| (std::cmp::Reverse(*count), *width, *height));
    line(format!("sizes: {}", sizes.len()));
    for (width, height, count) in sizes.iter().take(SHOWN) {
        line(format!("  {:>13}  {count}", format!("{width}×{height}")));
    }
    rest(sizes.len(), &mut line);
    line("formats:".to_owned());
    for (form, count) in &report.forms {
        line(format!("  {form}: {count}"));
    }
    if !dataset.classes().is_empty() {
        line(format!("classes: {}", dataset.classes().len()));
        for (class, count) in dataset.classes().iter().zip(&statistics.per_class).take(SHOWN) {
            line(format!("  {class}: {count}"));
        }
        rest(dataset.classes().len(), &mut line);
        if statistics.unlabelled > 0 {
            line(format!("  without a class: {}", statistics.unlabelled));
        }
    }
    let numbers = |number: fn(&(f64, f64)) -> f64| {
        let numbers: Vec<_> =
            statistics.channels.iter().map(|c| format!("{:.4}", number(c))).collect();
        numbers.join(" ")
    };
    line(format!(
        "mean {}, standard deviation {} (black 0, white 1)",
        numbers(|c| c.0),
        numbers(|c| c.1)
    ));
    line(format!("damaged: {}", report.damaged.len()));
    for damaged in &report.damaged {
        line(format!("  {damaged}"));
    }
    text
}

fn rest(count: usize, line: &mut impl FnMut(String)) {
    if count > SHOWN {
        line(format!("  and {} more", count - SHOWN));
    }
}

fn as_json(
    source: &Source,
    report: &Report,
    dataset: &ImageDataset,
    statistics: &Statistics,
    sheet: &Path,
) -> serde_json::Value {
    let classes: Vec<_> = dataset
        .classes()
        .iter()
        .zip(&statistics.per_class)
        .map(|(name, count)| json!({ "name": name, "count": count }))
        .collect();
    json!({
        "path": source.path(),
        "kind": source.description(),
        "pictures": dataset.len(),
        "image_shape": dataset.image_shape(),
        "sizes": report.sizes.iter().map(|(w, h, n)| json!({ "width": w, "height": h, "count": n })).collect::<Vec<_>>(),
        "forms": report.forms,
        "classes": classes,
        "without_class": statistics.unlabelled,
        "mean": statistics.channels.iter().map(|c| c.0).collect::<Vec<_>>(),
        "std": statistics.channels.iter().map(|c| c.1).collect::<Vec<_>>(),
        "damaged": report.damaged,
        "contact_sheet": sheet,
    })
}

/// Rows of pictures from all over the set.
fn spread(dataset: &ImageDataset) -> Vec<(String, Vec<usize>)> {
    let shown = dataset.len().min(SHEET_COLUMNS * SHEET_COLUMNS);
    let spread: Vec<usize> = (0..shown).map(|i| i * dataset.len() / shown).collect();
    spread.chunks(SHEET_COLUMNS).map(|row| (format!("from {}", row[0]), row.to_vec())).collect()
}

/// A sheet with one row of pictures per class, or without classes with pictures spread over the
/// set.
fn contact_sheet(dataset: &ImageDataset) -> anyhow::Result<Picture> {
    let mut rows: Vec<(String, Vec<usize>)> = if dataset.classes().is_empty() {
        spread(dataset)
    } else {
        let mut rows: Vec<_> =
            dataset.classes().iter().map(|class| (class.clone(), Vec::new())).collect();
        for i in 0..dataset.len() {
            if let Some(row) = dataset.label(i).map(|label| &mut rows[label as usize].1)
                && row.len() < SHEET_COLUMNS
            {
                row.push(i);
            }
        }
        rows
    };
    rows.retain(|(_, pictures)| !pictures.is_empty());
    if rows.is_empty() {
        rows = spread(dataset);
    }
    rows.truncate(SHEET_ROWS);
    let [channels, height, width] = dataset.image_shape();
    let blank = Picture { width, height, channels, pixels: vec![255; channels * height * width] };
    let factor = 48usize.div_ceil(width.max(1)).max(1);
    let mut cells = Vec::new();
    for (_, chosen) in &rows {
        let mut row =
            diffusion_picture::from_tensor(&dataset.images(chosen, &candle_core::Device::Cpu)?)?;
        row.resize(SHEET_COLUMNS, blank.clone());
        cells.push(row.iter().map(|picture| picture.enlarged(factor).into()).collect());
    }
    let names: Vec<String> =
        rows.into_iter().map(|(name, _)| name.chars().take(SHEET_LETTERS).collect()).collect();
    let columns: Vec<String> = (1..=SHEET_COLUMNS).map(|column| column.to_string()).collect();
    Ok(diffusion_report::sheet(&cells, &names, &columns)?)
}
