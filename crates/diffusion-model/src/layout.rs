//! The file layout of a run folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use diffusion_files::FileError;

use crate::ModelState;

/// The folder of a run:
///
/// ```text
/// config.toml              the resolved configuration
/// metrics.jsonl            one line per step
/// samples/step-0000100.png the sample grid after step 100
/// checkpoints/step-0000100 the checkpoint after step 100
/// latest                   the name of the newest complete checkpoint
/// lock                     locked by the training process
/// ```
///
/// All code that reads or writes there takes its paths from this type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunLayout {
    root: PathBuf,
}

impl RunLayout {
    /// The layout of the folder `root`, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The run that contains the folder of a checkpoint, if there is one.
    pub fn of_checkpoint(checkpoint: &Path) -> Option<Self> {
        let run = Self::new(checkpoint.canonicalize().ok()?.ancestors().nth(2)?);
        run.is_run().then_some(run)
    }

    /// Returns `path` if it is a checkpoint folder, or the newest checkpoint if `path` is a run
    /// folder.
    ///
    /// # Errors
    /// If the folder is neither, or if the run has no checkpoint.
    pub fn checkpoint_at(path: &Path) -> Result<PathBuf, FileError> {
        if path.join(ModelState::FILE).is_file() {
            return Ok(path.to_owned());
        }
        let run = Self::new(path);
        if !run.is_run() {
            let problem = format!(
                "this folder holds no run: it has no config.toml; and this is not a checkpoint: it \
                 holds no {}",
                ModelState::FILE
            );
            return Err(FileError::unusable(path, problem));
        }
        run.latest_checkpoint()
    }

    /// The folder of the run.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the folder contains a run.
    pub fn is_run(&self) -> bool {
        self.config().is_file()
    }

    /// Checks that the folder contains a run.
    ///
    /// # Errors
    /// If the folder has no `config.toml`.
    pub fn check(&self) -> Result<(), FileError> {
        if self.is_run() {
            return Ok(());
        }
        Err(FileError::unusable(&self.root, "this folder holds no run: it has no config.toml"))
    }

    /// The file of the configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The file of the metrics, one line per step.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// The file that names the newest complete checkpoint.
    pub fn latest(&self) -> PathBuf {
        self.root.join("latest")
    }

    /// The file that the training process locks.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The HTML page of the run.
    pub fn page(&self) -> PathBuf {
        self.root.join("index.html")
    }

    /// The chart of the losses.
    pub fn loss_chart(&self) -> PathBuf {
        self.root.join("loss.png")
    }

    /// The animation of the sample grids.
    pub fn animation(&self) -> PathBuf {
        self.root.join("samples.gif")
    }

    /// The folder of the sample grids.
    pub fn samples(&self) -> PathBuf {
        self.root.join("samples")
    }

    /// The folder of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The sample grid after `step` updates.
    pub fn grid(&self, step: u64) -> PathBuf {
        self.samples().join(format!("{}.png", Self::step_name(step)))
    }

    /// The folder of the checkpoint after `step` updates.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(Self::step_name(step))
    }

    /// The name of files and folders written after `step` updates, without extension.
    pub fn step_name(step: u64) -> String {
        format!("step-{step:07}")
    }

    /// The inverse of [`step_name`](Self::step_name), for the last component of a path.
    pub fn step_of(path: &Path) -> Option<u64> {
        path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
    }

    /// Whether the run has a complete checkpoint.
    pub fn has_checkpoint(&self) -> bool {
        self.latest().exists()
    }

    /// The time at which the last checkpoint was completed, if there is one.
    pub fn saved_at(&self) -> Option<SystemTime> {
        fs::metadata(self.latest()).and_then(|metadata| metadata.modified()).ok()
    }

    /// The folder of the newest complete checkpoint.
    ///
    /// # Errors
    /// If the run has no checkpoint yet, or if `latest` does not name an existing checkpoint.
    pub fn latest_checkpoint(&self) -> Result<PathBuf, FileError> {
        if !self.has_checkpoint() {
            return Err(FileError::unusable(&self.root, "this run has no checkpoint yet"));
        }
        let file = self.latest();
        let name = fs::read_to_string(&file).map_err(FileError::io(&file))?;
        let path = self.checkpoints().join(name.trim_end());
        if Self::step_of(&path).is_none() || !path.is_dir() {
            let problem =
                format!("it names the checkpoint `{}`, which does not exist", name.trim_end());
            return Err(FileError::unusable(&file, problem));
        }
        Ok(path)
    }
}
