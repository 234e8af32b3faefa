//! `diffusion edit vary`.

use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_model::Batch;
use diffusion_sample::edit::{steps_at, vary};

use super::job::{EditArgs, EditJob};
use super::{model_note, quantity, report_interrupted};
use crate::args::numbers::{share_above_0, whole};
use crate::session::progress::clock;

/// Generate variations of a picture
///
/// Adds noise to the picture and lets the model remove it (SDEdit, Meng et al. 2022). With
/// --class the results move towards that class. Result i depends only on the model, the sampling
/// flags, the picture,
/// --seed and i.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion edit vary seven.png --strength 0.4 --grid varied.png\n  \
                        diffusion edit vary seven.png --class 3 --strength 0.7"
)]
pub(crate) struct VaryArgs {
    /// Share of the sampling steps that are run, above 0 and at most 1; larger values change more
    ///
    /// The picture starts with the noise of the first of these steps. At 1 nothing of the picture
    /// is left, and the results are those of `diffusion sample`.
    #[arg(
        long,
        value_name = "SHARE",
        default_value = "0.5",
        value_parser = share_above_0,
        allow_negative_numbers = true)]
    strength: f64,
    /// Number of variations of each picture and class, 1 to 1,000,000 [default: 8, or 1 if PICTURE
    /// is a folder]
    #[arg(long, value_name = "N", value_parser = whole(1..=1_000_000))]
    num: Option<u64>,
    #[command(flatten)]
    edit: EditArgs,
}

pub(super) fn run(args: &VaryArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    let num = |folder: bool| args.num.unwrap_or(if folder { 1 } else { 8 });
    let job = EditJob::open(&args.edit, &[], |inputs| num(inputs.folder), device)?;
    let (steps, all) = (steps_at(args.strength, &job.config.plan)?, job.config.plan.steps().len());
    if steps == all {
        tracing::warn!("at this strength all steps are run, so nothing of the picture is left");
    }
    let start = Instant::now();
    let edit = |pictures: &Tensor, batch: &mut Batch<'_>| {
        let Batch { denoiser, sampler, plan, request, observer, .. } = batch;
        let observer = &mut |p: diffusion_sample::Progress<'_>| observer(p.done, Some(&p));
        vary(pictures, args.strength, *denoiser, *sampler, plan, request, observer)
    };
    let Some(results) = job.run(steps, quiet, &edit)? else {
        return Ok(report_interrupted(&args.edit.out));
    };
    job.write_grid(&[("input", &job.inputs.images)], &results)?;
    println!(
        "{} of {} in {} ({steps} of {all} steps of {}, {}){}",
        quantity(job.count(), "variation", "variations"),
        job.inputs.names(),
        args.edit.out.display(),
        job.config.sampler.name(),
        clock(start.elapsed().as_secs_f64()),
        model_note(&job.found)
    );
    Ok(ExitCode::SUCCESS)
}
