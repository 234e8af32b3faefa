//! Runs, checkpoints and models by argument or default.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use candle_core::Device;
use diffusion_assets::DIGITS_MODEL;
use diffusion_data::PictureConfig;
use diffusion_interop::{Scheduler, SchedulerMethod};
use diffusion_model::{LoadedModel, ModelState, RunLayout, Weights};
use diffusion_train::{Checkpoint, RunDir, TrainConfig};

use crate::session::usage::{UsageError, bail_usage, check_input};

/// The default folder of all runs.
const RUNS: &str = "runs";

/// The flags that name a model.
#[derive(clap::Args, Clone)]
pub(crate) struct ModelArgs {
    /// Folder of a run; its newest checkpoint is used [default: the run in runs/ that saved last]
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
    /// Folder of a checkpoint, for example runs/mnist-1/checkpoints/step-0000100, or a model in one
    /// file
    ///
    /// Use it for an earlier state of a run. `evaluate ema --out` writes a model in one file, from
    /// which commands that generate images can sample.
    #[arg(long, value_name = "DIR|FILE", conflicts_with = "run")]
    pub(crate) checkpoint: Option<PathBuf>,
}

/// A model and its checkpoint.
pub(crate) struct FoundModel {
    pub(crate) model: LoadedModel,
    /// `None` for the model that comes with the program.
    pub(crate) checkpoint: Option<PathBuf>,
    /// The scheduler of the run, if it was imported with one.
    pub(crate) scheduler: Option<Scheduler>,
}

impl FoundModel {
    /// The name of the model for display.
    pub(crate) fn name(&self) -> String {
        let step = self.model.step;
        match &self.checkpoint {
            Some(path) => format!("{} (step {step})", path.display()),
            None => format!("the small model of digits that comes with the program ({step} steps)"),
        }
    }

    /// How the training pictures were prepared. Without a run: the defaults.
    pub(crate) fn picture_config(&self) -> anyhow::Result<PictureConfig> {
        match self.checkpoint.as_deref().and_then(run_of) {
            Some(run) => Ok(run.read_config()?.pictures),
            None => Ok(PictureConfig::default()),
        }
    }
}

impl ModelArgs {
    /// The checkpoint that the flags name, if any is given.
    pub(crate) fn named(&self) -> anyhow::Result<Option<PathBuf>> {
        match (&self.checkpoint, &self.run) {
            (Some(checkpoint), _) => {
                check_input("--checkpoint", checkpoint)?;
                if checkpoint.is_file() {
                    bail_usage!(
                        "--checkpoint {}: this command needs the folder of a checkpoint, and this \
                         is a file",
                        checkpoint.display()
                    );
                }
                ModelState::read(checkpoint).map_err(|e| {
                    if RunLayout::new(checkpoint).is_run() {
                        anyhow!("{e}; this is the folder of a run: use --run")
                    } else {
                        e.into()
                    }
                })?;
                Ok(Some(checkpoint.clone()))
            }
            (None, Some(run)) => {
                check_input("--run", run)?;
                let layout = RunLayout::new(run);
                layout.check()?;
                Ok(Some(layout.latest_checkpoint()?))
            }
            (None, None) => Ok(None),
        }
    }

    /// The model that the flags name. Default: that of the latest run; without a run, the one that
    /// comes with the program.
    pub(crate) fn open(&self, weights: Weights, device: &Device) -> anyhow::Result<FoundModel> {
        let checkpoint = match &self.checkpoint {
            Some(file) if file.is_file() && weights == Weights::Raw => bail_usage!(
                "--checkpoint {}: a model in one file has no other weights than these",
                file.display()
            ),
            Some(file) if file.is_file() => Some(file.clone()),
            _ => match self.named()? {
                Some(checkpoint) => Some(checkpoint),
                None => latest().map(|run| run.latest_checkpoint()).transpose()?,
            },
        };
        let found = match checkpoint {
            Some(checkpoint) => {
                let mut model = LoadedModel::open(&checkpoint, weights, device)
                    .map_err(|e| damaged(e.into(), &checkpoint))?;
                let method = SchedulerMethod::of_checkpoint(&checkpoint)?;
                let scheduler = method.as_ref().map(|method| method.scheduler.clone());
                if let Some(method) = method {
                    method.set(&mut model);
                }
                FoundModel { model, checkpoint: Some(checkpoint), scheduler }
            }
            None => FoundModel {
                model: LoadedModel::unpack(
                    DIGITS_MODEL,
                    "the model that comes with the program".as_ref(),
                    device,
                )?,
                checkpoint: None,
                scheduler: None,
            },
        };
        tracing::info!("using {}", found.name());
        if found.checkpoint.is_none() {
            tracing::info!(
                "there is no run in {RUNS}/ yet; train a model of your own with `{}`",
                program("train")
            );
        }
        Ok(found)
    }

    /// The checkpoint that the flags name. Default: that of the latest run.
    pub(crate) fn checkpoint(&self) -> anyhow::Result<PathBuf> {
        match self.named()? {
            Some(checkpoint) => Ok(checkpoint),
            None => match latest() {
                Some(run) => Ok(run.latest_checkpoint()?),
                None => bail_usage!(
                    "there is no run in {RUNS}/ yet; train one with `{}`, or name one with --run DIR or \
                     --checkpoint DIR",
                    program("train")
                ),
            },
        }
    }
}

/// `error` of reading `checkpoint`, with the newest checkpoint of its run that can be read.
pub(crate) fn damaged(error: anyhow::Error, checkpoint: &Path) -> anyhow::Error {
    let Some(run) = RunLayout::of_checkpoint(checkpoint) else { return error };
    let is_readable = |path: &Path| Checkpoint::read(path, &Device::Cpu).is_ok();
    let step = RunLayout::step_of(checkpoint);
    let others = run.complete_checkpoints();
    let readable =
        others.iter().rev().find(|(other, path)| Some(*other) != step && is_readable(path));
    let Some((newest, path)) = readable else { return error };
    let message =
        format!("the checkpoint cannot be read; the newest one that can is {}", path.display());
    if step < Some(*newest) {
        return error.context(message);
    }
    // Every newer one would be used before it, and none of them can be read.
    let newer = others.iter().filter(|(other, _)| other > newest && Some(*other) != step);
    let removals: Vec<String> = std::iter::once(checkpoint)
        .chain(newer.map(|(_, path)| path.as_path()))
        .map(|path| run.removal_of(path))
        .collect();
    error.context(format!("{message}. Remove {} to use that one", removals.join(" and ")))
}

/// The run that the folder `checkpoint` belongs to.
pub(crate) fn run_of(checkpoint: &Path) -> Option<RunDir> {
    RunDir::open(RunLayout::of_checkpoint(checkpoint)?.root()).ok()
}

/// The run in `runs/` that saved a checkpoint last.
pub(crate) fn latest() -> Option<RunLayout> {
    let runs =
        fs::read_dir(RUNS).ok()?.filter_map(|entry| Some(RunLayout::new(entry.ok()?.path())));
    let saved = runs.filter_map(|run| Some((run.saved_at()?, run.root().to_owned())));
    saved.max().map(|(_, root)| RunLayout::new(root))
}

/// Creates a folder `runs/NAME-N`, with the smallest N from 1 that does not exist.
pub(crate) fn new_folder(name: &str) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(RUNS).with_context(|| format!("cannot make the folder {RUNS}"))?;
    for number in 1..u32::MAX {
        let path = Path::new(RUNS).join(format!("{name}-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("cannot make the folder {}", path.display()));
            }
        }
    }
    Err(UsageError(format!("{RUNS}/ is full; name a folder with --run-dir")).into())
}

/// A folder name for images of a model of this configuration, for suggested commands.
pub(crate) fn image_folder_name(config: &TrainConfig) -> &'static str {
    if config.data.is_none() { "digits" } else { "generated" }
}

/// The command line of a command of this program, with `cargo run` if cargo started it.
pub(crate) fn program(command: &str) -> String {
    let program = if std::env::var_os("CARGO_MANIFEST_DIR").is_some() {
        "cargo run -p diffusion-cli --"
    } else {
        "diffusion"
    };
    format!("{program} {command}")
}

/// A path for a command line, in quotes if it contains white space.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "_./\\:-+,@%=~".contains(c);
    if text.chars().all(is_plain) {
        text
    } else if cfg!(windows) || text.chars().all(|c| is_plain(c) || c == ' ') {
        format!("\"{text}\"")
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
