//! `diffusion sample`.

mod order;
pub(super) mod trajectory;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use candle_core::{Device, Tensor};
use clap::builder::PossibleValuesParser;
use diffusion_data::picture::{self, Picture};
use diffusion_process::Threshold;
use diffusion_sample::{
    Churn, SampleError, SampleRequest, SamplerKind, SamplerOptions, VarianceType, sample_from,
};
use diffusion_schedule::{SamplingPlan, SigmaSpacing, TimestepSpacing};
use diffusion_train::{LoadedModel, Objective, Weights};

use self::order::Order;
use self::trajectory::Trajectory;
use super::progress::{Progress, clock};
use super::{image_number, make_folder};
use crate::control::{Control, ControlArgs, share};
use crate::interrupt;
use crate::runs::ModelArgs;
use crate::usage::{bail_usage, check_picture, check_spares, planned};

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
    #[arg(long, value_name = "NAME", value_parser = sampler_names())]
    sampler: Option<String>,
    /// Sampling steps [default: 20; all that the model was trained with for ddpm, 25 for a flow, 18 for an EDM]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: Option<u64>,
    /// How the steps are laid over those of training, where the model has a schedule
    #[arg(long, value_name = "SPACING", default_value = "trailing")]
    spacing: Spacing,
    /// The noise levels of the steps, where the model has a schedule: those of the timesteps, or σ spaced as by Karras et
    /// al. 2022 or evenly in ln σ
    #[arg(long, value_name = "SPACING", default_value = "timesteps")]
    sigmas: Sigmas,
    /// The variance of DDPM's steps: the posterior's (small), β (large) or what the model has learned (range) [default:
    /// learned-range if it has, else fixed-small]
    #[arg(long, value_name = "VARIANCE")]
    variance: Option<Variance>,
    /// How much noise DDIM adds: from 0, none, to 1, as much as DDPM [default: 0]
    #[arg(long, value_name = "ETA", value_parser = share)]
    eta: Option<f64>,
    /// How much noise Euler's and Heun's steps add and take away again, for all steps together [default: 0]
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
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
    #[arg(long, value_name = "WEIGHTS", default_value = "ema")]
    weights: WeightsName,
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

pub(crate) fn sampler_names() -> PossibleValuesParser {
    PossibleValuesParser::new(SamplerKind::ALL.map(SamplerKind::name))
}

fn amount(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number of 0 or more is wanted".to_owned()),
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Spacing {
    Leading,
    Linspace,
    Trailing,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Sigmas {
    Timesteps,
    Karras,
    Exponential,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Variance {
    FixedSmall,
    FixedLarge,
    LearnedRange,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum WeightsName {
    Ema,
    Raw,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Png,
    Npy,
}

pub(crate) fn run(args: &SampleArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    let weights = match args.weights {
        WeightsName::Ema => Weights::Ema,
        WeightsName::Raw => Weights::Raw,
    };
    let found = args.model.open(weights, device)?;
    let model = &found.model;
    if let Some(schedule) = model.objective.schedule() {
        super::warn_of_terminal_snr(schedule);
    }
    let kind = sampler_kind(args.sampler.as_deref(), args.variance.is_some(), model)?;
    check_options(args, kind)?;
    let churn = Churn { amount: args.churn.unwrap_or(0.0), ..Churn::default() };
    let options =
        SamplerOptions { variance: variance(args.variance, model)?, eta: args.eta.unwrap_or(0.0), churn };
    let plan = plan(args, &model.objective, kind)?;
    let noise = args.init_noise.as_deref().map(|path| read_noise(path, model, device)).transpose()?;
    let control = args.control.open(&found, device)?;
    let order = Order::new(args, &control, noise.as_ref())?;
    let num = order.items.len();
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
    let task = Task { model, plan: &plan, kind, options, control, noise, order, device };
    let images = sample_all(args, &task, quiet)?;
    if !images.tensors.is_empty() {
        picture::write_npy(&Tensor::cat(&images.tensors, 0)?, &args.out.join(SAMPLES))?;
    }
    if images.count < num {
        let (count, out) = (images.count, args.out.display());
        println!("stopped before the last image; the {count} images that were done are in {out}");
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    if let Some(path) = &args.grid {
        task.order.grid(&images.pictures, &task.control)?.write_png(path)?;
    }
    println!(
        "{num} images in {} ({} steps each, {}){}",
        args.out.display(),
        plan.steps().len(),
        clock(start.elapsed().as_secs_f64()),
        if found.checkpoint.is_none() { ", by the model that comes with the program" } else { "" }
    );
    Ok(ExitCode::SUCCESS)
}

/// Refuses outputs in the place of what is read.
fn spare_inputs(args: &SampleArgs) -> anyhow::Result<()> {
    let inputs: Vec<PathBuf> = args.control.inputs().iter().chain(&args.init_noise).cloned().collect();
    let files = [("--grid", &args.grid), ("--gif", &args.gif), ("--strip", &args.strip)];
    check_spares(&inputs, &files, std::iter::empty())?;
    let image = |path: &Path| path.ends_with(SAMPLES) || image_number(path).is_some();
    for input in &inputs {
        let within = |folder: &Path| match (input.canonicalize(), folder.canonicalize()) {
            (Ok(input), Ok(folder)) => input.starts_with(folder),
            _ => false,
        };
        let folders = [("--out", Some(&args.out)), ("--trajectory", args.trajectory.as_ref())];
        for (flag, folder) in folders.into_iter().filter_map(|(flag, folder)| Some((flag, folder?))) {
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

/// The sampler called `name`, or without a name that of the model, which may be asked for one that heeds the variance.
pub(crate) fn sampler_kind(
    name: Option<&str>,
    with_variance: bool,
    model: &LoadedModel,
) -> anyhow::Result<SamplerKind> {
    let Some(name) = name else {
        return Ok(model.objective.sampler(model.description.learned_variance() || with_variance));
    };
    let kind = SamplerKind::from_name(name).context("clap lets only the names of samplers through")?;
    check_fit(kind, model)?;
    Ok(kind)
}

/// Whether a sampler suits what the model was trained on.
pub(crate) fn check_fit(kind: SamplerKind, model: &LoadedModel) -> anyhow::Result<()> {
    let (name, process) = (kind.name(), model.objective.name());
    if kind.follows_flow() && !matches!(model.objective, Objective::Flow) {
        bail_usage!("{name} follows the path of a flow; this model is one of {process}");
    }
    if kind == SamplerKind::Ddpm && model.objective.schedule().is_none() {
        let own = model.objective.sampler(model.description.learned_variance()).name();
        bail_usage!("{name} needs a schedule; this model is one of {process}: use {own}");
    }
    Ok(())
}

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

/// The variance of DDPM's steps that is asked for.
pub(crate) fn variance(asked: Option<Variance>, model: &LoadedModel) -> anyhow::Result<VarianceType> {
    let learned = model.description.learned_variance();
    match asked {
        Some(Variance::FixedSmall) => Ok(VarianceType::FixedSmall),
        Some(Variance::FixedLarge) => Ok(VarianceType::FixedLarge),
        Some(Variance::LearnedRange) if !learned => {
            bail_usage!("--variance learned-range: this model has not learned a variance")
        }
        Some(Variance::LearnedRange) => Ok(VarianceType::LearnedRange),
        None => Ok(best_variance(model)),
    }
}

/// The variance of DDPM's steps for those who name none.
pub(crate) fn best_variance(model: &LoadedModel) -> VarianceType {
    if model.description.learned_variance() { VarianceType::LearnedRange } else { VarianceType::FixedSmall }
}

fn plan(args: &SampleArgs, objective: &Objective, kind: SamplerKind) -> anyhow::Result<SamplingPlan> {
    let steps = args.steps.map_or(objective.default_steps(kind), |steps| steps as usize);
    let spacing = match args.spacing {
        Spacing::Leading => TimestepSpacing::Leading,
        Spacing::Linspace => TimestepSpacing::Linspace,
        Spacing::Trailing => TimestepSpacing::Trailing,
    };
    let sigmas = match args.sigmas {
        Sigmas::Timesteps => SigmaSpacing::Timesteps,
        Sigmas::Karras => SigmaSpacing::Karras,
        Sigmas::Exponential => SigmaSpacing::Exponential,
    };
    planned(steps, objective.plan(steps, spacing, sigmas))
}

/// The noise to begin with, which must be of the model's size.
fn read_noise(path: &Path, model: &LoadedModel, device: &Device) -> anyhow::Result<Tensor> {
    let noise = picture::read_npy(path)?;
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

/// What is to be sampled.
struct Task<'a> {
    model: &'a LoadedModel,
    plan: &'a SamplingPlan,
    kind: SamplerKind,
    options: SamplerOptions,
    control: Control,
    noise: Option<Tensor>,
    order: Order,
    device: &'a Device,
}

/// What later steps need of the images: tensors for npy, pictures for the grid.
#[derive(Default)]
struct Images {
    count: usize,
    tensors: Vec<Tensor>,
    pictures: Vec<Picture>,
}

/// All images, batch by batch, or fewer if interrupted; PNGs are written as they come.
fn sample_all(args: &SampleArgs, task: &Task<'_>, quiet: bool) -> anyhow::Result<Images> {
    let &Task { model, plan, kind, options, ref control, ref noise, ref order, device } = task;
    let num = order.items.len();
    let mut trajectory =
        Trajectory::new(args.trajectory.as_deref(), args.gif.as_deref(), args.strip.as_deref())?;
    let mut failed = None;
    let mut sampler = kind.build(&options);
    let threshold = match args.dynamic_threshold {
        Some(ratio) => Threshold::Dynamic { ratio, max: f64::INFINITY },
        None => Threshold::Clip { range: 1.0 },
    };
    let threshold = (!args.no_clip).then_some(threshold);
    let batch_size = args.batch_size as usize;
    let batches = num.div_ceil(batch_size) as u64;
    let steps = plan.steps().len() as u64;
    let mut progress = Progress::new("sampling", batches * steps, quiet);
    let mut images = Images::default();
    for (batch, items) in order.items.chunks(batch_size).enumerate() {
        if interrupt::flow().is_break() {
            break;
        }
        let (first, batch) = (batch * batch_size, batch as u64);
        let x = noise.as_ref().map(|noise| {
            let scale = 1.0 / plan.start().to_variance_preserving();
            noise.narrow(0, first, items.len())?.affine(scale, 0.0)
        });
        let request = SampleRequest {
            seed: args.seed,
            indices: items.iter().map(|item| item.index).collect(),
            image_shape: model.description.image_shape,
            device,
        };
        let mut observe = |p: diffusion_sample::Progress<'_>| -> ControlFlow<()> {
            progress.advance(batch * steps + p.done as u64, || {
                format!(
                    "images {}-{} of {}, step {}/{}",
                    first + 1,
                    first + items.len(),
                    num,
                    p.done,
                    p.steps
                )
            });
            if batch == 0
                && let Err(e) = trajectory.add(&p)
            {
                failed = Some(e);
                return ControlFlow::Break(());
            }
            interrupt::flow()
        };
        let x = x.unwrap_or_else(|| request.initial(plan))?;
        let noise = request.step_noise(plan);
        let classes: Vec<Option<u32>> = items.iter().map(|item| item.class).collect();
        let result = control.with_denoiser(model, &classes, threshold, |denoiser| {
            Ok(sample_from(x, denoiser, &mut *sampler, plan, &noise, &mut observe))
        })?;
        if let Some(e) = failed.take() {
            return Err(e);
        }
        let tensor = match result {
            Err(SampleError::Cancelled { .. }) => break,
            result => result?,
        };
        // A formula of several steps may lead a little beyond what each was kept in.
        let tensor = if args.no_clip { tensor } else { tensor.clamp(-1f32, 1f32)? };
        if batch == 0 {
            trajectory.finish()?;
        }
        images.count += items.len();
        let pictures = picture::from_tensor(&tensor)?;
        match args.format {
            Format::Png => {
                for (number, picture) in (first..).zip(&pictures) {
                    picture.write_png(&args.out.join(order.file(number, control)))?;
                }
            }
            Format::Npy => images.tensors.push(tensor),
        }
        if args.grid.is_some() {
            images.pictures.extend(pictures);
        }
    }
    progress.finish();
    Ok(images)
}
