//! `diffusion evaluate grid`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use clap::builder::PossibleValuesParser;
use diffusion_data::picture::{self, Picture};
use diffusion_process::{Threshold, Thresholded};
use diffusion_sample::{SampleError, SampleRequest, SamplerKind, SamplerOptions, sample};
use diffusion_schedule::{SamplingPlan, SigmaSpacing, TimestepSpacing};
use diffusion_train::{LoadedModel, Weights};

use crate::commands::sample::{best_variance, check_fit};
use crate::interrupt;
use crate::runs::ModelArgs;
use crate::usage::{bail_usage, check_picture};

/// Draw the same images by several samplers with several numbers of steps, in one labelled picture
///
/// Every cell begins with the same noise. The table on standard output has the seconds that each cell took.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  diffusion evaluate grid --run runs/mnist-1 --samplers ddim,dpmpp-2m,heun --steps 5,10,20,50"
)]
pub(crate) struct GridArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The samplers, a row each [default: all that suit the model]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = PossibleValuesParser::new(SamplerKind::ALL.map(SamplerKind::name)))]
    samplers: Vec<String>,
    /// The numbers of steps, a column each
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "5,10,20,50", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    steps: Vec<u64>,
    /// Images in each cell
    #[arg(long, value_name = "N", default_value = "9", value_parser = clap::value_parser!(u64).range(1..=256))]
    num: u64,
    /// The seed of the noise
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// The picture
    #[arg(long, value_name = "FILE.png", default_value = "samplers.png")]
    out: PathBuf,
}

pub(super) fn run(args: &GridArgs, device: &Device) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    let checkpoint = args.model.checkpoint()?;
    let model = LoadedModel::open(&checkpoint, Weights::Ema, device)?;
    tracing::info!("using {} (step {})", checkpoint.display(), model.step);
    let kinds = kinds(args, &model)?;
    if let Some(schedule) = model.objective.schedule() {
        crate::commands::warn_of_terminal_snr(schedule);
    }
    // What cannot be planned or written is said before anything is computed.
    let plans =
        args.steps.iter().map(|&steps| plan(&model, steps as usize)).collect::<anyhow::Result<Vec<_>>>()?;
    check_picture("--out", &args.out, &["png"])?;
    let longest = kinds.iter().map(|kind| kind.name().len()).max().unwrap_or(0);
    let steps: Vec<String> = args.steps.iter().map(u64::to_string).collect();
    let line = |name: &str, numbers: &[String]| {
        let numbers: Vec<String> = numbers.iter().map(|number| format!("{number:>8}")).collect();
        println!("{name:longest$}  {}", numbers.concat());
    };
    line("seconds", &steps);
    let mut cells = Vec::new();
    for &kind in &kinds {
        let mut row = Vec::new();
        let mut seconds = Vec::new();
        for plan in &plans {
            let start = Instant::now();
            let Some(cell) = cell(args, &model, kind, plan, device)? else {
                println!("stopped before the picture was done");
                return Ok(ExitCode::from(interrupt::EXIT_CODE));
            };
            seconds.push(format!("{:.2}", start.elapsed().as_secs_f64()));
            row.push(cell.into());
        }
        line(kind.name(), &seconds);
        cells.push(row);
    }
    let names: Vec<String> = kinds.iter().map(|kind| kind.name().to_owned()).collect();
    let columns: Vec<String> = steps.iter().map(|steps| format!("{steps} steps")).collect();
    diffusion_report::sheet(&cells, &names, &columns)?.write_png(&args.out)?;
    println!("{} images a cell: {}", args.num, args.out.display());
    Ok(ExitCode::SUCCESS)
}

fn kinds(args: &GridArgs, model: &LoadedModel) -> anyhow::Result<Vec<SamplerKind>> {
    if args.samplers.is_empty() {
        return Ok(SamplerKind::ALL.into_iter().filter(|kind| check_fit(*kind, model).is_ok()).collect());
    }
    let named = args.samplers.iter().filter_map(|name| SamplerKind::from_name(name));
    named.map(|kind| check_fit(kind, model).map(|()| kind)).collect()
}

fn plan(model: &LoadedModel, steps: usize) -> anyhow::Result<SamplingPlan> {
    match model.objective.plan(steps, TimestepSpacing::Trailing, SigmaSpacing::Timesteps) {
        Ok(plan) => Ok(plan),
        Err(e) => bail_usage!("--steps {steps}: {e}"),
    }
}

/// The images of one cell, side by side; `None` when interrupted.
fn cell(
    args: &GridArgs,
    model: &LoadedModel,
    kind: SamplerKind,
    plan: &SamplingPlan,
    device: &Device,
) -> anyhow::Result<Option<Picture>> {
    let request = SampleRequest {
        seed: args.seed,
        indices: 0..args.num,
        image_shape: model.description.image_shape,
        device,
    };
    let denoiser = Thresholded::new(&model.denoiser, Threshold::Clip { range: 1.0 });
    let mut observe = |_: diffusion_sample::Progress<'_>| -> ControlFlow<()> { interrupt::flow() };
    let options = SamplerOptions { variance: best_variance(model), ..SamplerOptions::default() };
    let mut sampler = kind.build(&options);
    let images = match sample(&denoiser, &mut *sampler, plan, &request, &mut observe) {
        Err(SampleError::Cancelled { .. }) => return Ok(None),
        // Its place stays black: that a sampler fails with so few steps is a finding.
        Err(e @ SampleError::NotFinite { .. }) => {
            tracing::warn!("{}: {e}", kind.name());
            let [c, h, w] = request.image_shape;
            Tensor::full(-1f32, (args.num as usize, c, h, w), device)?
        }
        result => result?,
    };
    // Twice the size, to be seen.
    Ok(Some(picture::grid(&picture::from_tensor(&images)?)?.enlarged(2)))
}
