//! `diffusion evaluate grid`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_eval::SampleEvaluator;
use diffusion_model::{Generation, LoadedModel, ModelError, Weights};
use diffusion_sample::{SampleError, SamplerKind};

use crate::args::data;
use crate::args::judging::JudgeArgs;
use crate::args::numbers::whole;
use crate::args::one_of;
use crate::args::runs::{FoundModel, ModelArgs};
use crate::args::sampling::sampler_kind;
use crate::session::interrupt;
use crate::session::usage::{bail_usage, check_picture, checked_plan};

/// Compare samplers and numbers of steps in one labelled picture
///
/// All cells start from the same noise; the picture shows the first --num images of each. The
/// command prints two tables: the seconds per cell, and the Fréchet distance of --judged images per
/// cell from real images, measured as in `evaluate samples`. The distance depends on the number of
/// images, so compare equal numbers only.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  diffusion evaluate grid --run runs/mnist-1 --samplers ddim,dpmpp-2m,heun --steps 5,10,20,50"
)]
pub(crate) struct GridArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Samplers to compare, separated by commas, one row each [default: all that fit the model]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = one_of(&SamplerKind::ALL, SamplerKind::name))]
    samplers: Vec<SamplerKind>,
    /// Numbers of sampling steps to compare, separated by commas, one column each; 1 to 100,000
    ///
    /// A model with a noise schedule allows at most as many steps as the schedule has timesteps.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "5,10,20,50", value_parser = whole(1..=100_000))]
    steps: Vec<u64>,
    /// Images per cell for the Fréchet distance; 0, or 64 to 100,000
    ///
    /// More images give a more precise distance and take longer. 0 skips the distance.
    #[arg(long, value_name = "N", default_value = "256", value_parser = judged_count)]
    judged: u64,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Images to show per cell; 1 to 256
    #[arg(long, value_name = "N", default_value = "9", value_parser = whole(1..=256))]
    num: u64,
    /// Seed of the noise; 0 to 2^64 - 1
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Write the picture to this PNG file
    #[arg(long, value_name = "FILE.png", default_value = "samplers.png")]
    out: PathBuf,
    #[command(flatten)]
    cache: data::CacheArgs,
}

/// Parses the number of images for the Fréchet distance: 0, or 64 to 100,000.
fn judged_count(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number @ (0 | 64..=100_000)) => Ok(number),
        _ => Err(
            "expected 0, or 64 to 100000: the distance is unreliable with fewer images than features"
                .to_owned(),
        ),
    }
}

pub(super) fn run(args: &GridArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    let FoundModel { model, checkpoint, .. } = args.model.open(Weights::Ema, device)?;
    let kinds = kinds(args, &model)?;
    if let Some(schedule) = model.objective.schedule() {
        crate::commands::warn_of_terminal_snr(schedule);
    }
    // Invalid steps and output files fail before anything is computed.
    for &steps in &args.steps {
        checked_plan(steps as usize, model.objective.default_plan(steps as usize))?;
    }
    check_picture("--out", &args.out, &["png"])?;
    let evaluator = evaluator(args, checkpoint.as_deref(), &model, device, quiet)?;
    let judge = evaluator.as_ref().and_then(SampleEvaluator::judge);
    let generated = if judge.is_some() { args.num.max(args.judged) } else { args.num };
    let longest =
        kinds.iter().map(|kind| kind.name().len()).max().unwrap_or(0).max("distance".len());
    let line = |name: &str, numbers: &[String]| {
        let numbers: Vec<String> = numbers.iter().map(|number| format!("{number:>8}")).collect();
        println!("{name:longest$}  {}", numbers.concat());
    };
    let steps: Vec<String> = args.steps.iter().map(u64::to_string).collect();
    println!("seconds for {generated} images");
    line("seconds", &steps);
    let mut cells = Vec::new();
    let mut distances = Vec::new();
    for &kind in &kinds {
        let mut row = Vec::new();
        let (mut seconds, mut row_of_distances) = (Vec::new(), Vec::new());
        for &steps in &args.steps {
            let start = Instant::now();
            let Some(images) = images(args, &model, kind, steps as usize, generated)? else {
                println!("stopped before all cells were generated");
                return Ok(ExitCode::from(interrupt::exit_code()));
            };
            seconds.push(format!("{:.2}", start.elapsed().as_secs_f64()));
            if let Some(judge) = judge {
                let metrics = judge.metrics(&images.narrow(0, 0, args.judged as usize)?, &[])?;
                row_of_distances.push(format!("{:.3}", metrics.quality.frechet_distance));
            }
            let shown = diffusion_picture::from_tensor(&images.narrow(0, 0, args.num as usize)?)?;
            // Enlarged for viewing.
            row.push(diffusion_picture::grid(&shown)?.enlarged(2).into());
        }
        line(kind.name(), &seconds);
        cells.push(row);
        distances.push(row_of_distances);
    }
    let names: Vec<String> = kinds.iter().map(|kind| kind.name().to_owned()).collect();
    let columns: Vec<String> = steps.iter().map(|steps| format!("{steps} steps")).collect();
    diffusion_report::sheet(&cells, &names, &columns)?.write_sheet(&args.out)?;
    if let Some(judge) = judge {
        println!(
            "{} of {} images ({}), compared with {}",
            judge.extractor().distance_name(),
            args.judged,
            judge.extractor().features_name(),
            judge.reference_name()
        );
        line("distance", &steps);
        for (kind, distances) in kinds.iter().zip(&distances) {
            line(kind.name(), distances);
        }
    }
    println!("the first {} images of each cell: {}", args.num, args.out.display());
    Ok(ExitCode::SUCCESS)
}

fn kinds(args: &GridArgs, model: &LoadedModel) -> anyhow::Result<Vec<SamplerKind>> {
    if args.samplers.is_empty() {
        let fits = |kind: &SamplerKind| model.objective.check_sampler(*kind).is_ok();
        return Ok(SamplerKind::ALL.into_iter().filter(fits).collect());
    }
    args.samplers.iter().map(|kind| sampler_kind(Some(*kind), false, model)).collect()
}

/// The evaluator of the Fréchet distances; `None` if they are skipped or no network accepts the
/// images.
fn evaluator(
    args: &GridArgs,
    checkpoint: Option<&Path>,
    model: &LoadedModel,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<Option<SampleEvaluator>> {
    if args.judged == 0 {
        if let Some(flag) = args.judge.given() {
            bail_usage!(
                "{flag} cannot be combined with --judged 0, which skips the Fréchet distance"
            );
        }
        return Ok(None);
    }
    let shape = model.description.image_shape;
    if args.judge.judge.is_none()
        && args.judge.inception.is_none()
        && let Err(problem) = args.judge.extractor(device)?.check_shape(shape)
    {
        tracing::info!(
            "the Fréchet distance is skipped: {problem}; --judge names a judge of such images, and \
             --inception accepts all"
        );
        return Ok(None);
    }
    args.judge.evaluator_of_model(checkpoint, shape, None, &args.cache, device, quiet).map(Some)
}

/// Generates the images of one cell; `None` if interrupted.
fn images(
    args: &GridArgs,
    model: &LoadedModel,
    sampler: SamplerKind,
    steps: usize,
    num: u64,
) -> anyhow::Result<Option<Tensor>> {
    let (kind, steps) = (Some(sampler), Some(steps));
    let generation = Generation { sampler: kind, steps, seed: args.seed, ..Generation::new(num) };
    match model.generate(&generation, &mut |_| interrupt::flow()) {
        Err(e) if e.is_cancelled() => Ok(None),
        // The cell stays black: a sampler that fails with few steps is a valid result.
        Err(ModelError::Sample(e @ SampleError::NotFinite { .. })) => {
            tracing::warn!("{}: {e}", sampler.name());
            let [c, h, w] = model.description.image_shape;
            Ok(Some(Tensor::full(-1f32, (num as usize, c, h, w), &model.device)?))
        }
        result => Ok(Some(result?)),
    }
}
