//! `diffusion sample`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use candle_core::{Device, Tensor};
use diffusion_data::picture::{self, Picture};
use diffusion_sample::{Ddpm, SampleError, SampleRequest, VarianceType, sample};
use diffusion_schedule::{NoiseSchedule, TimestepSpacing};
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
    #[arg(long, value_name = "NAME", default_value = "ddpm")]
    sampler: SamplerName,
    /// Sampling steps [default: all that the model was trained with]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// How the steps are laid over those of training
    #[arg(long, value_name = "SPACING", default_value = "trailing")]
    spacing: Spacing,
    /// The variance of the reverse steps: the posterior's (small) or β (large)
    #[arg(long, value_name = "VARIANCE", default_value = "fixed-small")]
    variance: Variance,
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

#[derive(Clone, Copy, clap::ValueEnum)]
enum SamplerName {
    /// Ancestral sampling (Ho et al. 2020).
    Ddpm,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Spacing {
    Leading,
    Linspace,
    Trailing,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Variance {
    FixedSmall,
    FixedLarge,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum WeightsName {
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
    let schedule = respace(args, &model.schedule)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make the folder {}", args.out.display()))?;

    let start = Instant::now();
    let Some(images) = sample_all(args, &model, &schedule, device, quiet)? else {
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
        schedule.len(),
        clock(start.elapsed().as_secs_f64())
    );
    Ok(ExitCode::SUCCESS)
}

fn respace(args: &SampleArgs, schedule: &NoiseSchedule) -> anyhow::Result<NoiseSchedule> {
    let steps = args.steps.map_or(schedule.len(), |steps| steps as usize);
    let spacing = match args.spacing {
        Spacing::Leading => TimestepSpacing::Leading,
        Spacing::Linspace => TimestepSpacing::Linspace,
        Spacing::Trailing => TimestepSpacing::Trailing,
    };
    match schedule.respace(steps, spacing) {
        Ok(respaced) => Ok(respaced),
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
    schedule: &NoiseSchedule,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<Option<Images>> {
    let SamplerName::Ddpm = args.sampler;
    let sampler = Ddpm {
        variance: match args.variance {
            Variance::FixedSmall => VarianceType::FixedSmall,
            Variance::FixedLarge => VarianceType::FixedLarge,
        },
        clip_denoised: !args.no_clip,
    };
    let batches = args.num.div_ceil(args.batch_size);
    let steps = schedule.len() as u64;
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
        let mut observe = |p: diffusion_sample::Progress| -> ControlFlow<()> {
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
        let tensor = match sample(&model.denoiser, &sampler, schedule, &request, &mut observe) {
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
