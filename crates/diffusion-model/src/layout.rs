//! Where things are in the folder of a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use diffusion_files::FileError;

use crate::ModelState;

/// The folder of a run:
///
/// ```text
/// config.toml              the resolved configuration
/// metrics.jsonl            a line a step
/// samples/step-0000100.png the grid after step 100
/// checkpoints/step-0000100 the training after step 100
/// latest                   the name of the newest whole checkpoint
/// lock                     held by the process that trains
/// ```
///
/// Whoever reads or writes there asks this type for the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunLayout {
    root: PathBuf,
}

impl RunLayout {
    /// The layout of the folder `root`, whether it exists or not.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The run in which the folder of a checkpoint lies, if it lies in one.
    pub fn of_checkpoint(checkpoint: &Path) -> Option<Self> {
        let run = Self::new(checkpoint.canonicalize().ok()?.ancestors().nth(2)?);
        run.is_run().then_some(run)
    }

    /// The checkpoint that the folder at `path` is, or the newest of the run that it is.
    ///
    /// # Errors
    /// A folder that is neither; a run without a checkpoint.
    pub fn checkpoint_at(path: &Path) -> Result<PathBuf, FileError> {
        if path.join(ModelState::FILE).is_file() {
            return Ok(path.to_owned());
        }
        let run = Self::new(path);
        if !run.is_run() {
            let problem = format!(
                "this folder holds no run: it has no config.toml; and this is not a checkpoint: it holds no {}",
                ModelState::FILE
            );
            return Err(FileError::unusable(path, problem));
        }
        run.latest_checkpoint()
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the folder holds a run.
    pub fn is_run(&self) -> bool {
        self.config().is_file()
    }

    /// Refuses a folder that holds no run.
    ///
    /// # Errors
    /// A folder without `config.toml`.
    pub fn check(&self) -> Result<(), FileError> {
        if self.is_run() {
            return Ok(());
        }
        Err(FileError::unusable(&self.root, "this folder holds no run: it has no config.toml"))
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The metrics, a line a step.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// The file that names the newest whole checkpoint.
    pub fn latest(&self) -> PathBuf {
        self.root.join("latest")
    }

    /// The file that the process that trains holds a lock on.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The page about the run.
    pub fn page(&self) -> PathBuf {
        self.root.join("index.html")
    }

    /// The chart of the losses.
    pub fn loss_chart(&self) -> PathBuf {
        self.root.join("loss.png")
    }

    /// The grids of samples, animated.
    pub fn animation(&self) -> PathBuf {
        self.root.join("samples.gif")
    }

    /// The folder of the grids of samples.
    pub fn samples(&self) -> PathBuf {
        self.root.join("samples")
    }

    /// The folder of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The grid after `step` updates.
    pub fn grid(&self, step: u64) -> PathBuf {
        self.samples().join(format!("{}.png", Self::step_name(step)))
    }

    /// The folder of the checkpoint after `step` updates.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(Self::step_name(step))
    }

    /// The name of whatever was written after `step` updates, without its ending.
    pub fn step_name(step: u64) -> String {
        format!("step-{step:07}")
    }

    /// The inverse of [`step_name`](Self::step_name), for the last part of a path.
    pub fn step_of(path: &Path) -> Option<u64> {
        path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
    }

    /// Whether some checkpoint was completed.
    pub fn has_checkpoint(&self) -> bool {
        self.latest().exists()
    }

    /// When the last checkpoint was completed, if one was.
    pub fn saved_at(&self) -> Option<SystemTime> {
        fs::metadata(self.latest()).and_then(|metadata| metadata.modified()).ok()
    }

    /// The newest whole checkpoint.
    ///
    /// # Errors
    /// A run that has none yet; a name in `latest` that is no checkpoint's.
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
