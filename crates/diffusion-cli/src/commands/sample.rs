//! `diffusion sample`.

mod image_list;
mod scheduler;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_kernels::{Precision, autocast};
use diffusion_model::{GenerationProgress, Generator, LoadedModel, SamplingConfig, Weights};
use diffusion_picture::Picture;
use diffusion_process::Threshold;
use diffusion_sample::{Churn, SamplerKind, SamplerOptions, VarianceType};
use diffusion_schedule::{NoiseSchedule, SamplingPlan, SigmaSpacing, TimestepSpacing};
use diffusion_train::TrainingPrecision;

use self::image_list::ImageList;
use super::{image_number, make_folder, quantity};
use crate::args::control::{Control, ControlArgs};
use crate::args::numbers::{at_least_0, share, whole};
use crate::args::one_of;
use crate::args::runs::{FoundModel, ModelArgs};
use crate::args::sampling::{sampler_kind, variance};
use crate::session::generation::{GenerationDisplay, each_batch};
use crate::session::interrupt;
use crate::session::progress::clock;
use crate::session::trajectory::Trajectory;
use crate::session::usage::{bail_usage, check_no_overwrite, check_picture_beside, checked_plan};

/// Generate images with a trained model
///
/// Without --run or --checkpoint the newest run in runs/ is used. Without any run, a small model of
/// handwritten digits that comes with the program is used. Image i depends only on the model, on i,
/// and on the flags --seed, --sampler, --steps and the others that change the sampling. It does not
/// depend on --num, --batch-size, --threads or the output flags.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion sample --num 64 --out digits --grid digits.png\n  \
                        diffusion sample --class all --per-class 10 --grid classes.png\n  \
                        diffusion sample --steps 50 --gif digits.gif --strip digits-strip.png\n  \
                        diffusion sample --run runs/mnist-1 --steps 50 --format npy --out digits")]
pub(crate) struct SampleArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Number of images if --class has one class or is absent, 1 to 10,000,000 [default: 16]
    #[arg(long, value_name = "N", conflicts_with = "per_class", value_parser = whole(1..=10_000_000))]
    num: Option<u64>,
    /// Number of images of each class if --class has several classes, 1 to 1,000,000 [default: 8]
    ///
    /// It also works with one class. All classes start from the same noise, so the images show what
    /// the class changes. With several classes, each has its own folder in --out.
    #[arg(long, value_name = "N", requires = "class", value_parser = whole(1..=1_000_000))]
    per_class: Option<u64>,
    #[command(flatten)]
    control: ControlArgs,
    /// Sampling method [default: the scheduler of an imported run, otherwise dpmpp-2m-sde; ddpm
    /// with --variance or a learned variance; flow-heun for a flow model; heun for an EDM model]
    ///
    /// ddpm: ancestral sampling (Ho et al. 2020). ddim: DDIM (Song et al. 2021). dpmpp-2m,
    /// dpmpp-2m-heun, dpmpp-2m-sde: DPM-Solver++ of second order with the midpoint rule, with
    /// Heun's rule, and for the stochastic equation (Lu et al. 2022). euler, heun: Euler's and
    /// Heun's methods in σ (Karras et al. 2022). euler-ancestral: Euler's method with noise in each
    /// step. unipc: UniPC of second order (Zhao et al. 2023). lms: linear multistep of fourth
    /// order. pndm: PNDM (Liu et al. 2022). flow-euler, flow-heun: for flow models only.
    ///
    /// ddpm, dpmpp-2m-sde and euler-ancestral add noise in each step, which corrects errors of a
    /// briefly trained model. The others follow the noise of the seed deterministically, unless
    /// --eta or --churn is set.
    #[arg(long, value_name = "NAME", value_parser = one_of(&SamplerKind::ALL, SamplerKind::name))]
    sampler: Option<SamplerKind>,
    /// Sample by this scheduler of Python's diffusers: a scheduler_config.json, or the folder of a
    /// scheduler, a model or a pipeline [default: that of an imported run, unless --sampler is
    /// given]
    ///
    /// The steps are those of diffusers, also where they differ from the papers. --spacing,
    /// --sigmas, --variance, --eta, --churn, --no-clip and --dynamic-threshold override its
    /// settings.
    #[arg(long, value_name = "PATH", conflicts_with = "sampler")]
    scheduler: Option<PathBuf>,
    /// Number of sampling steps, at most the number of training timesteps [default: 20, or the
    /// number of training timesteps if that is smaller; all training timesteps for ddpm; 25 for a
    /// flow model; 18 for an EDM model]
    ///
    /// Flow and EDM models have no training timesteps and accept 1 to 1,000,000. The time is
    /// proportional to the number of steps; heun and flow-heun evaluate the network twice in a
    /// step.
    #[arg(long, value_name = "N", value_parser = whole(1..=1_000_000))]
    steps: Option<u64>,
    /// Choice of the training timesteps to visit (Lin et al. 2024); ignored by flow and EDM models
    /// [default: trailing, or that of the scheduler]
    ///
    /// trailing: evenly spaced down from the last timestep. leading: multiples of T/N (rounded
    /// down) from 0, for N steps and T training timesteps; leaves out the noisiest timestep.
    /// linspace: evenly spaced from the first to the last timestep.
    #[arg(long, value_name = "SPACING", value_parser = one_of(TimestepSpacing::ALL, TimestepSpacing::name))]
    spacing: Option<TimestepSpacing>,
    /// Spacing of the noise levels σ; ignored by flow and EDM models [default: timesteps, or that
    /// of the scheduler]
    ///
    /// timesteps: the levels of the timesteps that --spacing chooses. karras: evenly spaced in
    /// σ^(1/7), with most steps at little noise (Karras et al. 2022). exponential: evenly spaced in
    /// ln σ.
    #[arg(long, value_name = "SPACING", value_parser = one_of(SigmaSpacing::ALL, SigmaSpacing::name))]
    sigmas: Option<SigmaSpacing>,
    /// Variance of the noise in the steps of ddpm [default: learned-range if the model learned a
    /// variance, otherwise fixed-small]
    ///
    /// fixed-small: that of the posterior. fixed-large: β (Ho et al. 2020). learned-range:
    /// predicted by the model (Nichol & Dhariwal 2021).
    #[arg(long, value_name = "VARIANCE", value_parser = one_of(VarianceType::ALL, VarianceType::name))]
    variance: Option<VarianceType>,
    /// Noise η of ddim, from 0 (none) to 1 (as much as ddpm) [default: 0]
    ///
    /// 0 is the deterministic method: the image depends only on the starting noise (Song et al.
    /// 2021).
    #[arg(long, value_name = "ETA", value_parser = share)]
    eta: Option<f64>,
    /// Churn S_churn of euler and heun: amount of noise to add and remove again, in all steps
    /// together, at least 0 [default: 0]
    ///
    /// The noise corrects errors of earlier steps. A step raises σ by at most 41 % (Karras et al.
    /// 2022).
    #[arg(long, value_name = "AMOUNT", value_parser = at_least_0)]
    churn: Option<f64>,
    /// Do not clip the predicted image to [-1, 1] in each step
    ///
    /// Use it to reproduce samplers that do not clip.
    #[arg(long)]
    no_clip: bool,
    /// Scale the predicted image into [-1, 1] by this quantile of its absolute values instead of
    /// clipping, 0 to 1, for example 0.995
    ///
    /// An image whose quantile is at most 1 is only clipped. Use it with large guidance scales,
    /// where clipping saturates the images (dynamic thresholding, Saharia et al. 2022).
    #[arg(long, value_name = "RATIO", conflicts_with = "no_clip", value_parser = share)]
    dynamic_threshold: Option<f64>,
    /// Seed of the noise, and of the random classes if --class is not given; 0 to 2^64 - 1
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Number of images computed at a time, 1 to 65,536
    ///
    /// It changes the memory that is needed, but not the images.
    #[arg(long, value_name = "N", default_value = "64", value_parser = whole(1..=65_536))]
    batch_size: u64,
    /// Weights of the checkpoint: their moving average (ema) or those of the last training step
    /// (raw)
    #[arg(long, value_name = "WEIGHTS", default_value = "ema", value_parser = one_of(&Weights::ALL, Weights::name))]
    weights: Weights,
    /// Number format in which the network multiplies: f32, bf16 or auto
    ///
    /// bf16 (bfloat16) is faster on CPUs with AVX512-BF16 and on GPUs, and changes the images a
    /// little; on other CPUs, sampling is in f32. auto: bf16 if the device has it.
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = one_of(&TrainingPrecision::ALL, TrainingPrecision::name))]
    precision: TrainingPrecision,
    /// Start from the noise in this file: an npy array (N, C, H, W) of float32 or float64, with
    /// variance 1; generates N images, or the first --num
    #[arg(long, value_name = "FILE.npy")]
    init_noise: Option<PathBuf>,
    /// Also write an animation of up to 16 images: x_t on the left, the predicted image on the
    /// right, one frame per step
    #[arg(long, value_name = "FILE.gif")]
    gif: Option<PathBuf>,
    /// Also write a picture of up to 4 images with rows for x_t and the predicted image, and
    /// columns for up to 10 steps
    #[arg(long, value_name = "FILE.png")]
    strip: Option<PathBuf>,
    /// Also write trajectory.gif (as --gif), strip.png (as --strip) and one picture of x_t per step
    /// to this folder
    #[arg(long, value_name = "DIR")]
    trajectory: Option<PathBuf>,
    /// Folder for the images; existing images of the same name are replaced
    #[arg(long, value_name = "DIR", default_value = "generated")]
    out: PathBuf,
    /// File format of the images
    #[arg(long, value_name = "FORMAT", default_value = "png")]
    format: Format,
    /// Also write all images in one picture
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// 000000.png, 000001.png, …
    Png,
    /// samples.npy, float32 (N, C, H, W) in [-1, 1].
    Npy,
}

pub(crate) fn run(args: &SampleArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    let precision = args.precision.on(device);
    if args.precision == TrainingPrecision::Bf16 && precision == Precision::F32 {
        tracing::warn!(
            "bf16 needs a CPU with AVX512-BF16 or a GPU with bf16; sampling in f32 instead"
        );
    }
    autocast(precision, || generate(args, device, quiet))
}

fn generate(args: &SampleArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    let found = args.model.open(args.weights, device)?;
    let model = &found.model;
    if let Some(schedule) = model.objective.schedule() {
        super::warn_of_terminal_snr(schedule);
    }
    let config = config(args, &found)?;
    let noise =
        args.init_noise.as_deref().map(|path| read_noise(path, model, device)).transpose()?;
    let control = args.control.open(&found, device)?;
    let list = ImageList::new(args, &control, noise.as_ref())?;
    let untrained = list.untrained_classes(&control);
    if !untrained.is_empty() {
        tracing::warn!(
            "the model had no training pictures of {}, so these images mean nothing",
            untrained.join(", ")
        );
    }
    let (num, steps) = (list.specs.len(), config.plan.steps().len());
    if let Some(path) = &args.grid {
        check_picture_beside(&args.out, "--grid", path, &["png"])?;
    }
    check_outputs(args)?;
    check_separate_outputs(args, &list, &control)?;
    if args.format == Format::Png {
        list.make_folders(&args.out, &control)?;
    } else {
        make_folder(&args.out)?;
    }

    let start = Instant::now();
    let mut display =
        GenerationDisplay::new("sampling", num.div_ceil(config.batch_size) * steps, quiet);
    display.follow(Trajectory::new(
        &args.out,
        args.trajectory.as_deref(),
        args.gif.as_deref(),
        args.strip.as_deref(),
    )?);
    let generator = Generator { model, config, guidance: &control.guidance };
    let (mut count, mut tensors, mut pictures) = (0, Vec::new(), Vec::<Picture>::new());
    let mut observer = |progress: &GenerationProgress<'_>| display.observe(progress);
    let flow = each_batch(generator.sample(&list.specs, noise.as_ref(), &mut observer), |batch| {
        count = batch.range.end;
        let new = diffusion_picture::from_tensor(&batch.images)?;
        match args.format {
            Format::Png => {
                for (number, picture) in batch.range.zip(&new) {
                    picture.write_png(&args.out.join(list.file(number, &control)))?;
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
        let finished = match count {
            0 => String::new(),
            _ => format!("; the {count} finished images are in {out}"),
        };
        println!("stopped before the last image{finished}");
        return Ok(ExitCode::from(interrupt::exit_code()));
    }
    if let Some(path) = &args.grid {
        list.grid(&pictures, &control)?.write_sheet(path)?;
    }
    println!(
        "{} in {out} ({} each, {}){}",
        quantity(num, "image", "images"),
        quantity(steps, "step", "steps"),
        clock(start.elapsed().as_secs_f64()),
        if found.checkpoint.is_none() { ", by the model that comes with the program" } else { "" }
    );
    Ok(ExitCode::SUCCESS)
}

/// Fails if two outputs have one file: two flags, or a flag and an image.
fn check_separate_outputs(
    args: &SampleArgs,
    list: &ImageList,
    control: &Control,
) -> anyhow::Result<()> {
    let flags = [("--grid", &args.grid), ("--gif", &args.gif), ("--strip", &args.strip)];
    let given: Vec<(&str, PathBuf)> = flags
        .into_iter()
        .filter_map(|(flag, path)| Some((flag, std::path::absolute(path.as_ref()?).ok()?)))
        .collect();
    let out = std::path::absolute(&args.out)?;
    let images: HashSet<PathBuf> = match args.format {
        Format::Png => {
            (0..list.specs.len()).map(|number| out.join(list.file(number, control))).collect()
        }
        Format::Npy => HashSet::from([out.join(SAMPLES)]),
    };
    for (place, (flag, path)) in given.iter().enumerate() {
        if let Some((other, _)) = given[..place].iter().find(|(_, other)| other == path) {
            bail_usage!("{other} and {flag} name the same file, {}", path.display());
        }
        if images.contains(path) {
            bail_usage!("{flag} {}: an image of --out has this name", path.display());
        }
    }
    Ok(())
}

/// Fails if an output would overwrite an input.
fn check_outputs(args: &SampleArgs) -> anyhow::Result<()> {
    let inputs: Vec<PathBuf> =
        args.control.inputs().iter().chain(&args.init_noise).cloned().collect();
    let files = [("--grid", &args.grid), ("--gif", &args.gif), ("--strip", &args.strip)];
    check_no_overwrite(&inputs, &files, std::iter::empty())?;
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
                    "{flag} {folder}: an image would overwrite the input {input}; choose another \
                     folder"
                );
            }
        }
    }
    Ok(())
}

/// The file of `--format npy`.
const SAMPLES: &str = "samples.npy";

/// Fails if a flag has no effect on the sampler.
fn check_options(args: &SampleArgs, kind: SamplerKind) -> anyhow::Result<()> {
    use SamplerKind::{Ddim, Ddpm, Euler, Heun};
    let flags = [
        ("--variance", args.variance.is_some(), [Ddpm].as_slice()),
        ("--eta", args.eta.is_some(), &[Ddim]),
        ("--churn", args.churn.is_some(), &[Euler, Heun]),
    ];
    match flags.into_iter().find(|(_, given, kinds)| *given && !kinds.contains(&kind)) {
        Some((flag, _, kinds)) => {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            bail_usage!("{flag} is for {}, and the sampler is {}", names.join(" and "), kind.name())
        }
        None => Ok(()),
    }
}

/// The sampling configuration for the model.
fn config(args: &SampleArgs, found: &FoundModel) -> anyhow::Result<SamplingConfig> {
    let model = &found.model;
    let config = match scheduler::find(args, found)? {
        Some(scheduler) => {
            let spacing = args.spacing.unwrap_or(scheduler.spacing());
            let config = scheduler::config(args, scheduler, model)?;
            if let Some(schedule) = model.objective.schedule() {
                check_start(spacing, config.plan.steps().len(), &config.plan, schedule)?;
            }
            config
        }
        None => own_config(args, model)?,
    };
    let config = match args.dynamic_threshold {
        Some(ratio) => {
            let threshold = Threshold::Dynamic { ratio, max: f64::INFINITY };
            SamplingConfig { threshold: Some(threshold), ..config }
        }
        None => config,
    };
    let config = if args.no_clip { config.unclipped() } else { config };
    Ok(SamplingConfig { seed: args.seed, batch_size: args.batch_size as usize, ..config })
}

/// The configuration of a sampler of this project.
fn own_config(args: &SampleArgs, model: &LoadedModel) -> anyhow::Result<SamplingConfig> {
    let kind = sampler_kind(args.sampler, args.variance.is_some(), model)?;
    check_options(args, kind)?;
    let churn = Churn { amount: args.churn.unwrap_or(0.0), ..Churn::default() };
    let variance = variance(args.variance, model)?;
    let steps = args.steps.map_or(model.objective.default_steps(kind), |steps| steps as usize);
    let spacing = args.spacing.unwrap_or(TimestepSpacing::Trailing);
    let sigmas = args.sigmas.unwrap_or(SigmaSpacing::Timesteps);
    let plan = checked_plan(steps, model.objective.plan(steps, spacing, sigmas))?;
    if let Some(schedule) = model.objective.schedule() {
        check_start(spacing, steps, &plan, schedule)?;
    }
    Ok(SamplingConfig {
        options: SamplerOptions { variance, eta: args.eta.unwrap_or(0.0), churn },
        ..SamplingConfig::with_plan(model, plan, kind)
    })
}

/// How much more of the image the first level of a plan may keep than the last training timestep,
/// as a difference of ᾱ: above the first number there is a warning, above the second an error.
const START: [f64; 2] = [0.05, 0.3];

/// Checks that the plan starts near pure noise. `leading` with a number of steps that does not
/// divide the training timesteps, and one step of `linspace`, do not.
fn check_start(
    spacing: TimestepSpacing,
    steps: usize,
    plan: &SamplingPlan,
    schedule: &NoiseSchedule,
) -> anyhow::Result<()> {
    let alphas = schedule.alphas_cumprod();
    let end = alphas.last().copied().unwrap_or_default();
    let start = plan.start();
    let excess = |alpha: f64| alpha - end;
    let kept = start.signal.powi(2) / (start.signal.powi(2) + start.noise.powi(2));
    if excess(kept) <= START[0] {
        return Ok(());
    }
    let is_good = |steps: &usize| {
        let timesteps = spacing.timesteps(alphas.len(), *steps).unwrap_or_default();
        timesteps.last().is_some_and(|&last| excess(alphas[last]) <= START[0])
    };
    let below = (1..steps).rev().find(is_good);
    let above = (steps + 1..=alphas.len()).find(is_good);
    let numbers: Vec<String> =
        [below, above].into_iter().flatten().map(|n| n.to_string()).collect();
    let spacing = spacing.name();
    let problem = format!(
        "--steps {steps} with --spacing {spacing} starts at timestep {} of {}, where {:.0} % of the \
         image should be left; use --spacing trailing, or --steps {}",
        (start.timestep * 100.0).round() / 100.0,
        alphas.len(),
        100.0 * kept,
        numbers.join(" or ")
    );
    if excess(kept) > START[1] {
        bail_usage!("{problem}");
    }
    tracing::warn!("{problem}");
    Ok(())
}

/// The noise of --init-noise. Fails if its image shape is not that of the model.
fn read_noise(path: &Path, model: &LoadedModel, device: &Device) -> anyhow::Result<Tensor> {
    let noise = diffusion_picture::read_npy(path)?;
    if noise.dims()[1..] != model.description.image_shape {
        bail_usage!(
            "--init-noise {}: the model generates images of shape {:?}, but the noise has {:?}",
            path.display(),
            model.description.image_shape,
            &noise.dims()[1..]
        );
    }
    let values = noise.flatten_all()?.to_dtype(candle_core::DType::F64)?;
    let mean = values.mean_all()?.to_scalar::<f64>()?;
    let deviation = (values.sqr()?.mean_all()?.to_scalar::<f64>()? - mean * mean).max(0.0).sqrt();
    if values.elem_count() >= MANY_NUMBERS && (mean.abs() > 0.1 || (deviation - 1.0).abs() > 0.1) {
        tracing::warn!(
            "--init-noise {}: the noise has mean {mean:.2} and standard deviation {deviation:.2}; \
             the model expects 0 and 1",
            path.display()
        );
    }
    Ok(noise.to_device(device)?)
}

/// Fewer numbers can have other moments by chance.
const MANY_NUMBERS: usize = 500;
