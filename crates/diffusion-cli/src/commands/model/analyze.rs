//! `diffusion model analyze`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use diffusion_interop::ImportedModel;
use diffusion_model::ModelState;
use diffusion_report::{NetworkBox, NetworkPicture};
use diffusion_train::TrainConfig;
use diffusion_unet::{NetworkAnalysis, NetworkConfig, UNetSketch};
use serde_json::{Value, json};

use crate::args::numbers::whole;
use crate::args::runs::ModelArgs;
use crate::commands::{bytes, quantity};
use crate::session::usage::{CHARTS, bail_usage, check_picture};

/// The two configurations of the tutorial's exercise.
const TUTORIAL: [&str; 2] = ["64,128,256", "32,64,128,256"];

/// Values that a training stores per weight: the weight, its gradients of two parts of a batch,
/// AdamW's two moments and the moving average.
const TRAINED_COPIES: usize = 6;

/// Pixels of a batch, at most: a large network takes some 20 KB of memory for each.
const MOST_PIXELS: usize = 1 << 20;

/// Report parameters, sizes, memory and multiply-adds of a U-Net, level by level
///
/// With --preset, --run, --checkpoint or --import, the command builds the real network, runs one
/// forward and one backward pass on the CPU, and counts parameters, multiply-adds, activations and
/// memory. Activations are the results of kernels; a whole residual block is one kernel.
///
/// Without these flags it calculates sketches: simplified U-Nets with one convolution per level,
/// described by their widths alone (--channels). A sketch has a 3×3 convolution per encoder level
/// and in the bottleneck. Each decoder level has a 4×4 transposed convolution, and a 3×3
/// convolution of its result and the skip connection.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion model analyze --channels 64,128,256 --channels 32,64,128,256\n  \
                        diffusion model analyze --preset mnist --plot network.png\n  \
                        diffusion model analyze --run runs/mnist-1 --batch-size 64",
    mut_arg("run", |arg| arg.help(
        "Analyse the network of the run in this folder, by its newest checkpoint [default: a sketch]"
    ).long_help(
        "Analyse the network of the run in this folder, by its newest checkpoint [default: a sketch]"
    )),
    mut_arg("checkpoint", |arg| arg.help(
        "Analyse the network of the checkpoint in this folder"
    ).long_help(
        "Analyse the network of the checkpoint in this folder"
    ))
)]
pub(crate) struct AnalyzeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Analyse the network of a preset: mnist, digits-attn, colour-32, cifar10 or tutorial
    #[arg(long, value_name = "NAME", conflicts_with_all = ["run", "checkpoint", "import"])]
    preset: Option<String>,
    /// Analyse a model of Python's diffusers in this folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["run", "checkpoint"])]
    import: Option<PathBuf>,
    /// Encoder widths of a sketch, separated by commas; 1 to 65,536 each [default: 64,128,256 and
    /// 32,64,128,256]
    ///
    /// One width per level, up to 16 levels. Repeat the flag to compare configurations.
    #[arg(long, value_name = "WIDTHS", conflicts_with_all = ["preset", "run", "checkpoint", "import", "batch_size"])]
    channels: Vec<String>,
    /// Channels of the images; 1 to 4096 [default: the network's, 3 for a sketch]
    #[arg(long, value_name = "N", value_parser = whole(1..=4096))]
    in_channels: Option<u64>,
    /// Height and width of the images, in pixels; 1 to 65,536 [default: the model's, 64 for a
    /// sketch]
    ///
    /// The default of a preset is its image size, or 28. The size must be divisible by 2 for each
    /// level that halves it.
    #[arg(long, value_name = "SIZE", value_parser = whole(1..=65_536))]
    size: Option<u64>,
    /// Images per batch, for the memory of a real network; 1 to 4096 [default: 1]
    ///
    /// The batch may have up to 1,048,576 pixels (width × height × images).
    #[arg(long, value_name = "N", value_parser = whole(1..=4096))]
    batch_size: Option<u64>,
    /// Also draw the structure of the network, PNG or SVG by the file's ending
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &AnalyzeArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.plot {
        check_picture("--plot", path, &CHARTS)?;
    }
    match real_network(args)? {
        Some((name, network, size)) => analyze(args, &name, &network, size)?,
        None if args.batch_size.is_some() => {
            bail_usage!(
                "--batch-size is for a real network; give --preset, --run, --checkpoint or --import"
            )
        }
        None => sketch(args)?,
    }
    if let (Some(path), false) = (&args.plot, args.json) {
        println!("plot: {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The name of the given network, its configuration, and the height and width of its images.
fn real_network(args: &AnalyzeArgs) -> anyhow::Result<Option<(String, NetworkConfig, [usize; 2])>> {
    let size = args.size.map(|size| [size as usize; 2]);
    let (name, mut network, own_size) = if let Some(name) = &args.preset {
        let config = TrainConfig::preset(name)?;
        (format!("preset {name}"), config.network, [config.size.unwrap_or(28); 2])
    } else if let Some(folder) = &args.import {
        let imported = ImportedModel::read(folder, args.size.map(|size| size as usize))?;
        let [_, height, width] = imported.image_shape;
        (folder.display().to_string(), NetworkConfig::Unet2d(imported.network), [height, width])
    } else if let Some(path) = args.model.named()? {
        let model = ModelState::read(&path)?.model;
        let [_, height, width] = model.image_shape;
        (path.display().to_string(), model.network, [height, width])
    } else {
        return Ok(None);
    };
    if let Some(channels) = args.in_channels {
        network = network.with_image_channels(channels as usize);
    }
    let [height, width] = size.unwrap_or(own_size);
    let multiple = network.size_multiple();
    if !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
        bail_usage!(
            "{height}×{width}: both sides must be multiples of {multiple} for this network; set --size"
        );
    }
    let batch = args.batch_size.unwrap_or(1);
    let pixels = height * width * batch as usize;
    if pixels > MOST_PIXELS {
        bail_usage!(
            "{} of {height}×{width}: {pixels} pixels in all; at most {MOST_PIXELS} are supported, \
             because the network is executed",
            quantity(batch as usize, "image", "images")
        );
    }
    Ok(Some((name, network, [height, width])))
}

fn analyze(
    args: &AnalyzeArgs,
    name: &str,
    network: &NetworkConfig,
    size: [usize; 2],
) -> anyhow::Result<()> {
    let batch = args.batch_size.unwrap_or(1) as usize;
    let analysis = NetworkAnalysis::new(network, size, batch).with_context(|| name.to_owned())?;
    let title = format!(
        "{name}, {} of {}×{}×{}",
        quantity(batch, "image", "images"),
        network.image_channels(),
        size[0],
        size[1]
    );
    if let Some(path) = &args.plot {
        let boxes = analysis
            .parts
            .iter()
            .map(|part| NetworkBox {
                name: part.name.clone(),
                output: part.output,
                parameters: part.parameters,
            })
            .collect();
        NetworkPicture { rows: vec![(title.clone(), boxes)] }.write(path)?;
    }
    if args.json {
        println!("{:#}", analysis_json(name, &analysis));
        return Ok(());
    }
    println!("{title}");
    let row = |cells: [String; 6]| {
        let [name, parameters, output, multiply_adds, activations, training] = cells;
        println!(
            "{name:<16} {parameters:>12} {output:>15} {multiply_adds:>14} {activations:>14} {training:>14}"
        );
    };
    row(["part", "parameters", "output", "mult-adds", "activations", "for backward"]
        .map(str::to_owned));
    for part in &analysis.parts {
        row([
            part.name.clone(),
            grouped(part.parameters as u64),
            output(part.output),
            grouped(part.multiply_adds),
            bytes(part.activation_bytes),
            // An output of 1×1 is a vector, not a feature map; candle stores it.
            if part.output[1] * part.output[2] > 1 {
                bytes(part.training_bytes)
            } else {
                "-".to_owned()
            },
        ]);
    }
    row([
        "total".to_owned(),
        grouped(analysis.parameters() as u64),
        String::new(),
        grouped(analysis.multiply_adds()),
        bytes(analysis.activation_bytes()),
        bytes(analysis.training_bytes()),
    ]);
    let weights = analysis.parameters() * size_of::<f32>();
    println!();
    println!("weights                       {:>12}", bytes(weights));
    println!("peak of maps, sampling        {:>12}", bytes(analysis.inference_peak_bytes));
    println!("peak of maps, training        {:>12}", bytes(analysis.training_peak_bytes));
    println!(
        "peak, sampling with weights   {:>12}",
        bytes(weights + analysis.inference_peak_bytes)
    );
    println!(
        "peak, training with weights,  {:>12}\n  their gradients, AdamW and EMA",
        bytes(TRAINED_COPIES * weights + analysis.training_peak_bytes)
    );
    println!(
        "The program itself, its data and the threads' working memory are not included; train --dry-run measures them."
    );
    Ok(())
}

fn analysis_json(name: &str, analysis: &NetworkAnalysis) -> Value {
    let parts: Vec<Value> = analysis
        .parts
        .iter()
        .map(|part| {
            json!({
                "name": part.name,
                "parameters": part.parameters,
                "output": part.output,
                "multiply_adds": part.multiply_adds,
                "activation_bytes": part.activation_bytes,
                "training_bytes": part.training_bytes,
            })
        })
        .collect();
    json!({
        "model": name,
        "batch_size": analysis.batch_size,
        "parts": parts,
        "parameters": analysis.parameters(),
        "multiply_adds": analysis.multiply_adds(),
        "inference_peak_bytes": analysis.inference_peak_bytes,
        "training_peak_bytes": analysis.training_peak_bytes,
    })
}

fn sketch(args: &AnalyzeArgs) -> anyhow::Result<()> {
    let (in_channels, size) =
        (args.in_channels.unwrap_or(3) as usize, args.size.unwrap_or(64) as usize);
    let configurations: Vec<String> = if args.channels.is_empty() {
        TUTORIAL.map(str::to_owned).to_vec()
    } else {
        args.channels.clone()
    };
    let sketches: Vec<(String, UNetSketch)> = configurations
        .into_iter()
        .map(|widths| Ok((widths.clone(), parse_sketch(&widths, in_channels, size)?)))
        .collect::<anyhow::Result<_>>()?;
    if let Some(path) = &args.plot {
        draw_sketches(&sketches, path)?;
    }
    if args.json {
        let all: Vec<Value> =
            sketches.iter().map(|(widths, sketch)| sketch_json(widths, sketch)).collect();
        println!(
            "{:#}",
            json!({ "in_channels": in_channels, "size": size, "configurations": all })
        );
        return Ok(());
    }
    for (widths, sketch) in &sketches {
        println!("encoder widths {widths}, images {in_channels}×{size}×{size}");
        println!(
            "{:<12} {:>9} {:>12} {:>12} {:>12}",
            "level", "channels", "resolution", "parameters", "float32"
        );
        for level in &sketch.levels {
            let resolution = format!("{0}×{0}", level.resolution);
            let parameters = grouped(level.parameters as u64);
            println!(
                "{:<12} {:>9} {resolution:>12} {parameters:>12} {:>12}",
                level.name,
                level.channels,
                bytes(level.bytes)
            );
        }
        let total = grouped(sketch.parameters() as u64);
        println!("{:<12} {:>9} {:>12} {total:>12} {:>12}", "total", "", "", bytes(sketch.bytes()));
        println!("peak memory of the feature maps: {}\n", bytes(sketch.peak_bytes));
    }
    compare(&sketches);
    Ok(())
}

fn parse_sketch(widths: &str, in_channels: usize, size: usize) -> anyhow::Result<UNetSketch> {
    let numbers: Result<Vec<usize>, _> =
        widths.split(',').map(|width| width.trim().parse::<usize>()).collect();
    let Ok(numbers) = numbers else {
        bail_usage!("--channels {widths}: expected whole numbers separated by commas")
    };
    match UNetSketch::new(&numbers, in_channels, size) {
        Ok(sketch) => Ok(sketch),
        Err(e) => bail_usage!("--channels {widths}: {e}"),
    }
}

fn compare(sketches: &[(String, UNetSketch)]) {
    let Some(((first, one), rest)) = sketches.split_first() else { return };
    for (name, sketch) in rest {
        println!(
            "{name} against {first}: {:.2} times the parameters, {:.2} times the peak memory",
            sketch.parameters() as f64 / one.parameters() as f64,
            sketch.peak_bytes as f64 / one.peak_bytes as f64
        );
    }
}

/// Draws one row of boxes per configuration.
fn draw_sketches(sketches: &[(String, UNetSketch)], path: &Path) -> anyhow::Result<()> {
    let row = |(widths, sketch): &(String, UNetSketch)| {
        let boxes = sketch.levels.iter().map(|level| NetworkBox {
            name: level.name.clone(),
            output: [level.channels, level.resolution, level.resolution],
            parameters: level.parameters,
        });
        (format!("encoder widths {widths}"), boxes.collect())
    };
    Ok(NetworkPicture { rows: sketches.iter().map(row).collect() }.write(path)?)
}

fn sketch_json(widths: &str, sketch: &UNetSketch) -> Value {
    let levels: Vec<Value> = sketch
        .levels
        .iter()
        .map(|level| {
            json!({
                "name": level.name,
                "channels": level.channels,
                "resolution": level.resolution,
                "parameters": level.parameters,
                "bytes": level.bytes,
            })
        })
        .collect();
    json!({
        "channels": widths,
        "levels": levels,
        "parameters": sketch.parameters(),
        "bytes": sketch.bytes(),
        "peak_bytes": sketch.peak_bytes,
    })
}

fn output([channels, height, width]: [usize; 3]) -> String {
    match channels * height * width {
        0 => String::new(),
        _ => format!("{channels}×{height}×{width}"),
    }
}

/// Groups digits by commas: 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
