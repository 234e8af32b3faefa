//! `diffusion edit vary`.

use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_model::Batch;
use diffusion_sample::edit::{steps_at, vary};

use super::drawing::{Drawing, DrawingArgs};
use super::{by, counted, stopped};
use crate::args::numbers::share_above_0;
use crate::session::progress::clock;

/// Draw variations of a picture: noise on it, and the model's way back (Meng et al. 2022)
///
/// Result i depends on the seed, the picture and on i only.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion edit vary seven.png --strength 0.4 --grid varied.png\n  \
                        diffusion edit vary seven.png --class 3 --strength 0.7"
)]
pub(crate) struct VaryArgs {
    /// How far from the picture: the share of the steps that are run, above 0; 1 leaves nothing of it
    #[arg(
        long,
        value_name = "SHARE",
        default_value = "0.5",
        value_parser = share_above_0,
        allow_negative_numbers = true)]
    strength: f64,
    /// Variations of each picture and class [default: 8, of each picture of a folder 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    num: Option<u64>,
    #[command(flatten)]
    drawing: DrawingArgs,
}

pub(super) fn run(args: &VaryArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    let num = |folder: bool| args.num.unwrap_or(if folder { 1 } else { 8 });
    let drawing = Drawing::open(&args.drawing, &[], |given| num(given.folder), device)?;
    let (steps, all) =
        (steps_at(args.strength, &drawing.config.plan)?, drawing.config.plan.steps().len());
    if steps == all {
        tracing::warn!(
            "at this strength all steps are run, so that nothing of the picture is left"
        );
    }
    let start = Instant::now();
    let edit = |pictures: &Tensor, batch: &mut Batch<'_>| {
        let Batch { denoiser, sampler, plan, request, observer, .. } = batch;
        let observer = &mut |p: diffusion_sample::Progress<'_>| observer(p.done, Some(&p));
        vary(pictures, args.strength, *denoiser, *sampler, plan, request, observer)
    };
    let Some(results) = drawing.run(steps, quiet, &edit)? else {
        return Ok(stopped(&args.drawing.out));
    };
    drawing.write_grid(&[("given", &drawing.given.images)], &results)?;
    println!(
        "{} of {} in {} ({steps} of {all} steps of {}, {}){}",
        counted(drawing.count(), "variation", "variations"),
        drawing.given.names(),
        args.drawing.out.display(),
        drawing.config.sampler.name(),
        clock(start.elapsed().as_secs_f64()),
        by(&drawing.found)
    );
    Ok(ExitCode::SUCCESS)
}
