//! The settings of a training: preset, model of --init-from, file and flags.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::anyhow;
use candle_core::Device;
use diffusion_train::{Checkpoint, ConfigSource, DEFAULT_PRESET, RunDir, TrainConfig};

use super::TrainArgs;
use crate::session::usage::{bail_usage, first_given};

/// The file of --config.
pub(super) fn read_file(path: &Path) -> anyhow::Result<ConfigSource> {
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::InvalidData => {
            anyhow!("--config {}: this is not a text file (not valid UTF-8)", path.display())
        }
        _ => anyhow!(e).context(format!("--config {}", path.display())),
    })?;
    Ok(ConfigSource { path: path.to_owned(), text })
}

/// The settings of a new run. If it starts from the checkpoint folder `origin`, that model's
/// settings override the preset's.
pub(super) fn new(
    args: &TrainArgs,
    file: Option<&ConfigSource>,
    origin: Option<&Path>,
    device: &Device,
) -> anyhow::Result<TrainConfig> {
    let model = origin.map(Checkpoint::read_state).transpose()?.map(|state| state.model);
    let preset = args.preset.as_deref().unwrap_or(DEFAULT_PRESET);
    with_flags(TrainConfig::layered_on(preset, model.as_ref(), file)?, args, device)
}

/// The settings of the run to resume.
pub(super) fn resumed(args: &TrainArgs, run_dir: &RunDir) -> anyhow::Result<TrainConfig> {
    let mut config = run_dir.read_config()?;
    let flags = [
        ("--preset", args.preset.is_some()),
        ("--config", args.config.is_some()),
        ("--batch-size", args.batch_size.is_some()),
        ("--lr", args.lr.is_some()),
        ("--seed", args.seed.is_some()),
        ("--conditional", args.conditional.is_some()),
        ("--precision", args.precision.is_some()),
        ("--averages", args.averages.is_some()),
    ];
    let pictures = args.data.pictures.apply(&mut config.size, &mut config.pictures);
    if let Some(flag) = pictures.or(first_given(&flags)) {
        bail_usage!("{flag} cannot change when a run is resumed; start a new run for it");
    }
    set_length(&mut config, args);
    if let Some(path) = &args.data.path {
        config.data = Some(crate::args::data::resolve(path)?);
    }
    config.validate()?;
    Ok(config)
}

/// `config` with the flags over it.
fn with_flags(
    mut config: TrainConfig,
    args: &TrainArgs,
    device: &Device,
) -> anyhow::Result<TrainConfig> {
    set_length(&mut config, args);
    let TrainArgs { data, batch_size, lr, seed, .. } = args;
    if data.path.is_some() {
        config.data.clone_from(&data.path);
    }
    if let Some(path) = &config.data {
        config.data = Some(crate::args::data::resolve(path)?);
    }
    data.pictures.apply(&mut config.size, &mut config.pictures);
    if let Some(batch_size) = batch_size {
        config.batch_size = *batch_size as usize;
    }
    if let Some(lr) = lr {
        config.optimizer.lr = *lr;
    }
    if let Some(seed) = seed {
        config.seed = *seed;
    }
    config.conditional = args.conditional.unwrap_or(config.conditional);
    config.precision = args.precision.unwrap_or(config.precision).resolved(device);
    if let Some(averages) = args.averages {
        config.checkpoint.averages = averages as usize;
    }
    config.validate()?;
    Ok(config)
}

/// Limits on the command line replace all limits of the preset and the file.
fn set_length(config: &mut TrainConfig, args: &TrainArgs) {
    let TrainArgs { steps, epochs, max_minutes, .. } = *args;
    if steps.is_some() || epochs.is_some() || max_minutes.is_some() {
        (config.steps, config.epochs, config.max_minutes) = (steps, epochs, max_minutes);
    }
}
