//! `diffusion sample`.

mod order;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_model::{GenerationProgress, Generator, LoadedModel, SamplingConfig, Weights};
use diffusion_picture::Picture;
use diffusion_process::Threshold;
use diffusion_sample::{Churn, SamplerKind, SamplerOptions, VarianceType};
use diffusion_schedule::{SigmaSpacing, TimestepSpacing};

use self::order::Order;
use super::{image_number, make_folder};
use crate::args::control::ControlArgs;
use crate::args::numbers::{at_least_0, share};
use crate::args::one_of;
use crate::args::runs::ModelArgs;
use crate::args::sampling::{sampler_kind, variance};
use crate::session::generation::{GenerationDisplay, each_batch};
use crate::session::interrupt;
use crate::session::progress::clock;
use crate::session::trajectory::Trajectory;
use crate::session::usage::{bail_usage, check_picture, check_spares, planned};

/// Generate images with a trained model
///
/// Image i depends on the seed and on i only: not on --num, --batch-size or --threads.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion sample --num 64 --out digits --grid digits.png\n  \
                        diffusion sample --steps 50 --gif digits.gif --strip digits-strip.png\n  \
                        diffusion sample --run runs/mnist-1 --steps 50 --format npy --out digits")]
pub(crate) struct SampleArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images to make [default: 16]
    #[arg(long, value_name = "N", conflicts_with = "per_class", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    num: Option<u64>,
    /// Images to make of each class that --class names [default: 8]
    #[arg(long, value_name = "N", requires = "class", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    per_class: Option<u64>,
    #[command(flatten)]
    control: ControlArgs,
    /// The sampler [default: dpmpp-2m-sde; ddpm with --variance or a learned one; flow-heun for a flow, heun for an EDM]
    #[arg(long, value_name = "NAME", value_parser = one_of(&SamplerKind::ALL, SamplerKind::name))]
    sampler: Option<SamplerKind>,
    /// Sampling steps [default: 20; all that the model was trained with for ddpm, 25 for a flow, 18 for an EDM]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: Option<u64>,
    /// How the steps are laid over those of training, where the model has a schedule
    #[arg(long, value_name = "SPACING", default_value = "trailing", value_parser = one_of(TimestepSpacing::ALL, TimestepSpacing::name))]
    spacing: TimestepSpacing,
    /// The noise levels of the steps, where the model has a schedule: those of the timesteps, or σ spaced as by Karras et
    /// al. 2022 or evenly in ln σ
    #[arg(long, value_name = "SPACING", default_value = "timesteps", value_parser = one_of(SigmaSpacing::ALL, SigmaSpacing::name))]
    sigmas: SigmaSpacing,
    /// The variance of DDPM's steps: the posterior's (small), β (large) or what the model has learned (range) [default:
    /// learned-range if it has, else fixed-small]
    #[arg(long, value_name = "VARIANCE", value_parser = one_of(VarianceType::ALL, VarianceType::name))]
    variance: Option<VarianceType>,
    /// How much noise DDIM adds: from 0, none, to 1, as much as DDPM [default: 0]
    #[arg(long, value_name = "ETA", value_parser = share)]
    eta: Option<f64>,
    /// How much noise Euler's and Heun's steps add and take away again, for all steps together [default: 0]
    #[arg(long, value_name = "AMOUNT", value_parser = at_least_0)]
    churn: Option<f64>,
    /// Do not cut the predicted image to [−1, 1] at each step
    #[arg(long)]
    no_clip: bool,
    /// Bring the predicted image into [−1, 1] by this quantile of its absolute values instead, 0.995 say (Saharia et al.
    /// 2022)
    #[arg(long, value_name = "RATIO", conflicts_with = "no_clip", value_parser = share)]
    dynamic_threshold: Option<f64>,
    /// The seed of the noise, and of the classes where none is named
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Images computed together
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch_size: u64,
    /// The weights: their moving average or those of the last step
    #[arg(long, value_name = "WEIGHTS", default_value = "ema", value_parser = one_of(&Weights::ALL, Weights::name))]
    weights: Weights,
    /// Begin with the noise in this file: float32 (N, C, H, W) of variance 1; --num is N then
    #[arg(long, value_name = "FILE.npy", conflicts_with = "num")]
    init_noise: Option<PathBuf>,
    /// Also write how the first images came to be, from noise on, beside what the model took them for at each step: animated
    #[arg(long, value_name = "FILE.gif")]
    gif: Option<PathBuf>,
    /// The same in rows, with some of the steps as columns
    #[arg(long, value_name = "FILE.png")]
    strip: Option<PathBuf>,
    /// Both of these, as trajectory.gif and strip.png, and a picture of each step
    #[arg(long, value_name = "DIR")]
    trajectory: Option<PathBuf>,
    /// The folder for the images
    #[arg(long, value_name = "DIR", default_value = "generated")]
    out: PathBuf,
    /// png: 000000.png, 000001.png, …; npy: samples.npy, float32 (N, C, H, W) in [−1, 1]
    #[arg(long, value_name = "FORMAT", default_value = "png")]
    format: Format,
    /// Also write all images as one picture
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Png,
    Npy,
}

pub(crate) fn run(args: &SampleArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    let found = args.model.open(args.weights, device)?;
    let model = &found.model;
    if let Some(schedule) = model.objective.schedule() {
        super::warn_of_terminal_snr(schedule);
    }
    let config = config(args, model)?;
    let noise =
        args.init_noise.as_deref().map(|path| read_noise(path, model, device)).transpose()?;
    let control = args.control.open(&found, device)?;
    let order = Order::new(args, &control, noise.as_ref())?;
    let (num, steps) = (order.specs.len(), config.plan.steps().len());
    if let Some(path) = &args.grid {
        check_picture("--grid", path, &["png"])?;
    }
    spare_inputs(args)?;
    if args.format == Format::Png {
        order.make_folders(&args.out, &control)?;
    } else {
        make_folder(&args.out)?;
    }

    let start = Instant::now();
    let mut display =
        GenerationDisplay::new("sampling", num.div_ceil(config.batch_size) * steps, quiet);
    display.follow(Trajectory::new(
        args.trajectory.as_deref(),
        args.gif.as_deref(),
        args.strip.as_deref(),
    )?);
    let generator = Generator { model, config, guidance: &control.guidance };
    let (mut count, mut tensors, mut pictures) = (0, Vec::new(), Vec::<Picture>::new());
    let mut observer = |progress: &GenerationProgress<'_>| display.observe(progress);
    let flow =
        each_batch(generator.sample(&order.specs, noise.as_ref(), &mut observer), |batch| {
            count = batch.range.end;
            let new = diffusion_picture::from_tensor(&batch.images)?;
            match args.format {
                Format::Png => {
                    for (number, picture) in batch.range.zip(&new) {
                        picture.write_png(&args.out.join(order.file(number, &control)))?;
                    }
                }
                Format::Npy => tensors.push(batch.images),
            }
            if args.grid.is_some() {
                pictures.extend(new);
            }
            Ok(())
        })?;
    display.close()?;
    if !tensors.is_empty() {
        diffusion_picture::write_npy(&Tensor::cat(&tensors, 0)?, &args.out.join(SAMPLES))?;
    }
    let out = args.out.display();
    if flow == ControlFlow::Break(()) {
        println!("stopped before the last image; the {count} images that were done are in {out}");
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    if let Some(path) = &args.grid {
        order.grid(&pictures, &control)?.write_png(path)?;
    }
    println!(
        "{num} images in {out} ({steps} steps each, {}){}",
        clock(start.elapsed().as_secs_f64()),
        if found.checkpoint.is_none() { ", by the model that comes with the program" } else { "" }
    );
    Ok(ExitCode::SUCCESS)
}

/// Refuses outputs in the place of what is read.
fn spare_inputs(args: &SampleArgs) -> anyhow::Result<()> {
    let inputs: Vec<PathBuf> =
        args.control.inputs().iter().chain(&args.init_noise).cloned().collect();
    let files = [("--grid", &args.grid), ("--gif", &args.gif), ("--strip", &args.strip)];
    check_spares(&inputs, &files, std::iter::empty())?;
    let image = |path: &Path| path.ends_with(SAMPLES) || image_number(path).is_some();
    for input in &inputs {
        let within = |folder: &Path| match (input.canonicalize(), folder.canonicalize()) {
            (Ok(input), Ok(folder)) => input.starts_with(folder),
            _ => false,
        };
        let folders = [("--out", Some(&args.out)), ("--trajectory", args.trajectory.as_ref())];
        for (flag, folder) in folders.into_iter().filter_map(|(flag, folder)| Some((flag, folder?)))
        {
            if within(folder) && (flag == "--trajectory" || image(input)) {
                let (folder, input) = (folder.display(), input.display());
                bail_usage!(
                    "{flag} {folder}: {input} lies there, whose place would be taken; name another folder"
                );
            }
        }
    }
    Ok(())
}

/// The array of all images.
const SAMPLES: &str = "samples.npy";

/// Refuses what the sampler would not obey.
fn check_options(args: &SampleArgs, kind: SamplerKind) -> anyhow::Result<()> {
    use SamplerKind::{Ddim, Ddpm, Euler, Heun};
    let given = [
        ("--variance", args.variance.is_some(), [Ddpm].as_slice()),
        ("--eta", args.eta.is_some(), &[Ddim]),
        ("--churn", args.churn.is_some(), &[Euler, Heun]),
    ];
    match given.into_iter().find(|(_, given, kinds)| *given && !kinds.contains(&kind)) {
        Some((flag, _, kinds)) => {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            bail_usage!("{flag} is for {}, and the sampler is {}", names.join(" and "), kind.name())
        }
        None => Ok(()),
    }
}

/// How the images of `model` are made.
fn config(args: &SampleArgs, model: &LoadedModel) -> anyhow::Result<SamplingConfig> {
    let kind = sampler_kind(args.sampler, args.variance.is_some(), model)?;
    check_options(args, kind)?;
    let churn = Churn { amount: args.churn.unwrap_or(0.0), ..Churn::default() };
    let variance = variance(args.variance, model)?;
    let steps = args.steps.map_or(model.objective.default_steps(kind), |steps| steps as usize);
    let plan = planned(steps, model.objective.plan(steps, args.spacing, args.sigmas))?;
    let threshold = match args.dynamic_threshold {
        Some(ratio) => Threshold::Dynamic { ratio, max: f64::INFINITY },
        None => SamplingConfig::CLIP,
    };
    Ok(SamplingConfig {
        options: SamplerOptions { variance, eta: args.eta.unwrap_or(0.0), churn },
        threshold: (!args.no_clip).then_some(threshold),
        seed: args.seed,
        batch_size: args.batch_size as usize,
        ..SamplingConfig::along(model, plan, kind)
    })
}

/// The noise to begin with, which must be of the model's size.
fn read_noise(path: &Path, model: &LoadedModel, device: &Device) -> anyhow::Result<Tensor> {
    let noise = diffusion_picture::read_npy(path)?;
    if noise.dims()[1..] != model.description.image_shape {
        bail_usage!(
            "--init-noise {}: the model makes images of shape {:?}, the noise is for {:?}",
            path.display(),
            model.description.image_shape,
            &noise.dims()[1..]
        );
    }
    Ok(noise.to_device(device)?)
}
