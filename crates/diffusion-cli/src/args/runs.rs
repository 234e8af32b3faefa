//! Finding runs and checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::Device;
use diffusion_data::PictureConfig;
use diffusion_model::{LoadedModel, ModelState, RunLayout, Weights};
use diffusion_train::{RunDir, TrainConfig};

use crate::session::usage::{UsageError, bail_usage, check_input};

/// A small model of digits; `assets/README.md` says how it was made.
const SHIPPED: &[u8] = include_bytes!("../../../../assets/digits.safetensors");

/// Where runs go when nobody says where.
const RUNS: &str = "runs";

/// Which model to use.
#[derive(clap::Args, Clone)]
pub(crate) struct ModelArgs {
    /// The folder of a run; its newest checkpoint is used [default: the run that saved last in runs/]
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
    /// The folder of a checkpoint
    #[arg(long, value_name = "DIR", conflicts_with = "run")]
    pub(crate) checkpoint: Option<PathBuf>,
}

/// A model, and where it was found.
pub(crate) struct FoundModel {
    pub(crate) model: LoadedModel,
    /// None: the one that comes with the program.
    pub(crate) checkpoint: Option<PathBuf>,
}

impl FoundModel {
    /// What it is, for people.
    pub(crate) fn name(&self) -> String {
        let step = self.model.step;
        match &self.checkpoint {
            Some(path) => format!("{} (step {step})", path.display()),
            None => format!("the small model of digits that comes with the program ({step} steps)"),
        }
    }

    /// How the pictures that the model learnt from were fitted, and what was laid behind them; the defaults where there is no run.
    pub(crate) fn prepared(&self) -> anyhow::Result<PictureConfig> {
        match self.checkpoint.as_deref().and_then(run_of) {
            Some(run) => Ok(run.read_config()?.pictures),
            None => Ok(PictureConfig::default()),
        }
    }
}

impl ModelArgs {
    /// The checkpoint meant, if any was named.
    pub(crate) fn named(&self) -> anyhow::Result<Option<PathBuf>> {
        match (&self.checkpoint, &self.run) {
            (Some(checkpoint), _) => {
                check_input("--checkpoint", checkpoint)?;
                ModelState::read(checkpoint)?;
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

    /// The model meant; without arguments that of the latest run, and without a run the one that comes with the program.
    pub(crate) fn open(&self, weights: Weights, device: &Device) -> anyhow::Result<FoundModel> {
        let checkpoint = match self.named()? {
            Some(checkpoint) => Some(checkpoint),
            None => latest().map(|run| run.latest_checkpoint()).transpose()?,
        };
        let found = match checkpoint {
            Some(checkpoint) => FoundModel {
                model: LoadedModel::open(&checkpoint, weights, device)?,
                checkpoint: Some(checkpoint),
            },
            None => FoundModel {
                model: LoadedModel::unpack(
                    SHIPPED,
                    "the model that comes with the program".as_ref(),
                    device,
                )?,
                checkpoint: None,
            },
        };
        tracing::info!("using {}", found.name());
        if found.checkpoint.is_none() {
            tracing::info!(
                "there is no run in {RUNS}/ yet; train a model of your own by `{}`",
                program("train")
            );
        }
        Ok(found)
    }

    /// The checkpoint meant; without arguments that of the latest run.
    pub(crate) fn checkpoint(&self) -> anyhow::Result<PathBuf> {
        match self.named()? {
            Some(checkpoint) => Ok(checkpoint),
            None => match latest() {
                Some(run) => Ok(run.latest_checkpoint()?),
                None => bail_usage!(
                    "there is no run in {RUNS}/ yet; train one by `{}`, or name one by --run DIR or --checkpoint DIR",
                    program("train")
                ),
            },
        }
    }
}

/// The run in which a checkpoint lies.
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

/// A new folder `runs/NAME-N`, with the smallest N above those that exist.
pub(crate) fn new_folder(name: &str) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(RUNS).with_context(|| format!("cannot make the folder {RUNS}"))?;
    for number in 1..u32::MAX {
        let path = Path::new(RUNS).join(format!("{name}-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                return Err(e).with_context(|| format!("cannot make the folder {}", path.display()));
            }
        }
    }
    Err(UsageError(format!("{RUNS}/ is full; name a folder by --run-dir")).into())
}

/// What files of images are called that a model of this configuration makes, in commands to go on with.
pub(crate) fn pictures_of(config: &TrainConfig) -> &'static str {
    if config.data.is_none() { "digits" } else { "generated" }
}

/// How the user calls a command of this program: by cargo, if cargo started it.
pub(crate) fn program(command: &str) -> String {
    let program = if std::env::var_os("CARGO_MANIFEST_DIR").is_some() {
        "cargo run -p diffusion-cli --"
    } else {
        "diffusion"
    };
    format!("{program} {command}")
}

/// A path as it is typed in a command.
pub(crate) fn typed(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains(char::is_whitespace) { format!("\"{text}\"") } else { text }
}
