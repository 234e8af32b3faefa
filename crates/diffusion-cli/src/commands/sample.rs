//! `diffusion sample`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use candle_core::{Device, Tensor};
use clap::builder::PossibleValuesParser;
use diffusion_data::picture::{self, Picture};
use diffusion_process::{Denoiser, Threshold, Thresholded};
use diffusion_sample::{
    Churn, SampleError, SampleRequest, SamplerKind, SamplerOptions, VarianceType, sample,
};
use diffusion_schedule::{NoiseSchedule, SamplingPlan, SigmaSpacing, TimestepSpacing};
use diffusion_train::{LoadedModel, Weights};

use super::progress::{Progress, clock};
use crate::interrupt;
use crate::runs::ModelArgs;
use crate::usage::bail_usage;

/// Generate images with a trained model
///
/// Image i depends on the seed and on i only: not on --num, --batch-size or --threads.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion sample --num 64 --out digits --grid digits.png\n  \
                        diffusion sample --run runs/mnist-1 --steps 50 --format npy --out digits")]
pub(crate) struct SampleArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images to make
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    num: u64,
    /// The sampler
    #[arg(long, value_name = "NAME", default_value = "ddpm", value_parser = sampler_names())]
    sampler: String,
    /// Sampling steps [default: all that the model was trained with]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// How the steps are laid over those of training
    #[arg(long, value_name = "SPACING", default_value = "trailing")]
    spacing: Spacing,
    /// The noise levels of the steps: those of the timesteps, or σ spaced as by Karras et al. 2022 or evenly in ln σ
    #[arg(long, value_name = "SPACING", default_value = "timesteps")]
    sigmas: Sigmas,
    /// The variance of DDPM's steps: the posterior's (small) or β (large)
    #[arg(long, value_name = "VARIANCE", default_value = "fixed-small")]
    variance: Variance,
    /// How much noise DDIM adds: from 0, none, to 1, as much as DDPM
    #[arg(long, value_name = "ETA", default_value = "0", value_parser = unit_interval)]
    eta: f64,
    /// How much noise Euler's and Heun's steps add and take away again, for all steps together
    #[arg(long, value_name = "AMOUNT", default_value = "0", value_parser = amount)]
    churn: f64,
    /// Do not cut the predicted image to [−1, 1] at each step
    #[arg(long)]
    no_clip: bool,
    /// The seed of the noise
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Images computed together
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch_size: u64,
    /// The weights: their moving average or those of the last step
    #[arg(long, value_name = "WEIGHTS", default_value = "ema")]
    weights: WeightsName,
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

fn sampler_names() -> PossibleValuesParser {
    PossibleValuesParser::new(SamplerKind::ALL.map(SamplerKind::name))
}

fn unit_interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("a number from 0 to 1 is wanted".to_owned()),
    }
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
enum Variance {
    FixedSmall,
    FixedLarge,
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
    let checkpoint = args.model.checkpoint()?;
    let weights = match args.weights {
        WeightsName::Ema => Weights::Ema,
        WeightsName::Raw => Weights::Raw,
    };
    let model = LoadedModel::open(&checkpoint, weights, device)?;
    tracing::info!("using {} (step {})", checkpoint.display(), model.step);
    super::warn_of_terminal_snr(&model.schedule);
    let plan = plan(args, &model.schedule)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make the folder {}", args.out.display()))?;

    let start = Instant::now();
    let Some(images) = sample_all(args, &model, &plan, device, quiet)? else {
        println!("stopped before the last image; the images that were done are in {}", args.out.display());
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    };
    if args.format == Format::Npy {
        picture::write_npy(&Tensor::cat(&images.tensors, 0)?, &args.out.join("samples.npy"))?;
    }
    if let Some(path) = &args.grid {
        picture::grid(&images.pictures)?.enlarged_for_viewing().write_png(path)?;
    }
    println!(
        "{} images in {} ({} steps each, {})",
        args.num,
        args.out.display(),
        plan.steps().len(),
        clock(start.elapsed().as_secs_f64())
    );
    Ok(ExitCode::SUCCESS)
}

fn plan(args: &SampleArgs, schedule: &NoiseSchedule) -> anyhow::Result<SamplingPlan> {
    let steps = args.steps.map_or(schedule.len(), |steps| steps as usize);
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
    match SamplingPlan::new(schedule, steps, spacing, sigmas) {
        Ok(plan) => Ok(plan),
        Err(e) => bail_usage!("--steps {steps}: {e}"),
    }
}

/// What later steps need of the images: tensors for npy, pictures for the grid.
#[derive(Default)]
struct Images {
    tensors: Vec<Tensor>,
    pictures: Vec<Picture>,
}

/// All images, batch by batch; PNGs are written as they come. `None` when interrupted.
fn sample_all(
    args: &SampleArgs,
    model: &LoadedModel,
    plan: &SamplingPlan,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<Option<Images>> {
    let kind =
        SamplerKind::from_name(&args.sampler).context("clap lets only the names of samplers through")?;
    let mut sampler = kind.build(&SamplerOptions {
        variance: match args.variance {
            Variance::FixedSmall => VarianceType::FixedSmall,
            Variance::FixedLarge => VarianceType::FixedLarge,
        },
        eta: args.eta,
        churn: Churn { amount: args.churn, ..Churn::default() },
    });
    let clipped = Thresholded::new(&model.denoiser, Threshold::Clip { range: 1.0 });
    let denoiser: &dyn Denoiser = if args.no_clip { &model.denoiser } else { &clipped };
    let batches = args.num.div_ceil(args.batch_size);
    let steps = plan.steps().len() as u64;
    let mut progress = Progress::new("sampling", batches * steps, quiet);
    let mut images = Images::default();
    for batch in 0..batches {
        let indices = batch * args.batch_size..args.num.min((batch + 1) * args.batch_size);
        let request = SampleRequest {
            seed: args.seed,
            indices: indices.clone(),
            image_shape: model.description.image_shape,
            device,
        };
        let mut observe = |p: diffusion_sample::Progress<'_>| -> ControlFlow<()> {
            progress.set(batch * steps + p.done as u64, || {
                format!(
                    "images {}-{} of {}, step {}/{}",
                    indices.start + 1,
                    indices.end,
                    args.num,
                    p.done,
                    p.steps
                )
            });
            interrupt::flow()
        };
        let tensor = match sample(denoiser, &mut *sampler, plan, &request, &mut observe) {
            Err(SampleError::Cancelled { .. }) => {
                progress.finish();
                return Ok(None);
            }
            result => result?,
        };
        let pictures = picture::from_tensor(&tensor)?;
        match args.format {
            Format::Png => {
                for (index, picture) in indices.clone().zip(&pictures) {
                    picture.write_png(&args.out.join(format!("{index:06}.png")))?;
                }
            }
            Format::Npy => images.tensors.push(tensor),
        }
        if args.grid.is_some() {
            images.pictures.extend(pictures);
        }
    }
    progress.finish();
    Ok(Some(images))
}
