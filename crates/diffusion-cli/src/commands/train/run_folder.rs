//! The folder of a run: opens and restores an existing one, or creates a new one.

use std::path::Path;

use candle_core::Device;
use diffusion_train::{Checkpoint, DEFAULT_PRESET, RunDir, TrainConfig, Trainer};

use super::TrainArgs;
use crate::args::runs;
use crate::session::usage::{bail_usage, with_advice};

pub(super) fn open_run(args: &TrainArgs) -> anyhow::Result<RunDir> {
    // clap requires --run-dir with --resume.
    Ok(RunDir::resume(args.run_dir.as_deref().unwrap_or_else(|| Path::new("")))?)
}

pub(super) fn create_run(args: &TrainArgs, trainer: &Trainer) -> anyhow::Result<RunDir> {
    let path = match &args.run_dir {
        Some(path) => path.clone(),
        None => runs::new_folder(&run_name(args, trainer.config()))?,
    };
    RunDir::start(&path, trainer).map_err(with_advice)
}

/// The name of a run: the preset if one is given, otherwise the name of the data.
fn run_name(args: &TrainArgs, config: &TrainConfig) -> String {
    let data = config
        .data
        .as_deref()
        .and_then(Path::file_stem)
        .map(|stem| stem.to_string_lossy().into_owned());
    let name = args.preset.clone().or(data).unwrap_or_else(|| DEFAULT_PRESET.to_owned());
    name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect()
}

pub(super) fn restore(
    trainer: &mut Trainer,
    run_dir: &RunDir,
    device: &Device,
) -> anyhow::Result<()> {
    let Some(path) = run_dir.layout().resumed_checkpoint()? else {
        tracing::warn!("{} has no checkpoint yet; starting from step 0", run_dir.path().display());
        return Ok(());
    };
    let checkpoint = Checkpoint::read(&path, device).map_err(|e| runs::damaged(e.into(), &path))?;
    if checkpoint.state.is_adopted() {
        let name = run_dir.path().display();
        bail_usage!(
            "{name} holds an imported model, which cannot be resumed; start a new run with \
             --init-from {name}"
        );
    }
    checkpoint.restore_into(trainer, &path).map_err(with_advice)?;
    tracing::info!("resuming from {} (step {})", path.display(), trainer.steps_done());
    log_raised_rate(trainer, run_dir)?;
    if trainer.is_finished() {
        tracing::warn!(
            "this run is already finished; give a larger --steps, --epochs or --max-minutes to \
             continue"
        );
    }
    Ok(())
}

/// Logs that a decayed learning rate rises again, because the training now ends later.
fn log_raised_rate(trainer: &Trainer, run_dir: &RunDir) -> anyhow::Result<()> {
    let step = trainer.steps_done();
    let before = run_dir.read_metrics()?.into_iter().rev().find(|metrics| metrics.step <= step);
    let (Some(before), now) = (before, trainer.learning_rate()) else { return Ok(()) };
    let is_warm = step >= trainer.config().lr_schedule.warmup_steps;
    if is_warm && !trainer.is_finished() && now > 2.0 * before.lr {
        tracing::warn!(
            "the learning rate rises from {:.2e} to {now:.2e}, because the training now ends later",
            before.lr
        );
    }
    Ok(())
}
