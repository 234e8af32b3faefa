//! The file layout of a run folder.

use std::fs;
use std::io::ErrorKind;
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
/// averages/                averages of the weights, if the run saves them
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
        let above = |path: &Path| Some(Self::new(path.ancestors().nth(2)?)).filter(Self::is_run);
        // The full path is only needed where the run is not part of the given one.
        above(checkpoint).or_else(|| above(&checkpoint.canonicalize().ok()?))
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
                "this folder holds no run: it has no config.toml; and this is not a checkpoint: {} \
                 is missing",
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

    /// The folder of the averages of the weights.
    pub fn averages(&self) -> PathBuf {
        self.root.join("averages")
    }

    /// The file of the averages after `step` updates.
    pub fn averages_after(&self, step: u64) -> PathBuf {
        self.averages().join(format!("{}.safetensors", Self::step_name(step)))
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

    /// The steps and folders of all complete checkpoints, in the order of steps.
    ///
    /// A checkpoint gets its name when it is complete, so a folder with that name and a
    /// `checkpoint.json` of that step is one. A copy of another checkpoint under this name is not.
    pub fn complete_checkpoints(&self) -> Vec<(u64, PathBuf)> {
        let entries = fs::read_dir(self.checkpoints()).into_iter().flatten().flatten();
        let mut checkpoints: Vec<(u64, PathBuf)> = entries
            .filter_map(|entry| Some((Self::step_of(&entry.path())?, entry.path())))
            .filter(|(step, path)| ModelState::read(path).is_ok_and(|state| state.step == *step))
            .collect();
        checkpoints.sort();
        checkpoints
    }

    /// The time at which the last checkpoint was completed, if there is one.
    pub fn saved_at(&self) -> Option<SystemTime> {
        let newest = || Some(self.complete_checkpoints().pop()?.1.join(ModelState::FILE));
        let file = Some(self.latest()).filter(|file| file.exists()).or_else(newest)?;
        fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
    }

    /// The step of the checkpoint that `latest` names, which need not exist. `None`: the file is
    /// missing or empty.
    ///
    /// # Errors
    /// If the file cannot be read, or names no checkpoint.
    pub fn latest_step(&self) -> Result<Option<u64>, FileError> {
        let file = self.latest();
        let name = match fs::read_to_string(&file) {
            Ok(name) => name,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(FileError::io(&file)(e)),
        };
        let name = name.trim_end();
        let step = Self::step_of(Path::new(name));
        if step.is_none() && !name.is_empty() {
            let newest = self.complete_checkpoints().pop().map(|(_, path)| path);
            return Err(FileError::unusable(&file, missing(name) + &advice(newest.as_deref())));
        }
        Ok(step)
    }

    /// The folder of the checkpoint from which a training continues: the one that `latest` names,
    /// or the newest complete one if that is newer. `None`: the run has no checkpoint.
    ///
    /// # Errors
    /// If `latest` names a checkpoint that does not exist, and no newer one does.
    pub fn resumed_checkpoint(&self) -> Result<Option<PathBuf>, FileError> {
        let newest = self.complete_checkpoints().pop();
        match (self.latest_step()?, newest) {
            (Some(latest), newest) if newest.as_ref().is_none_or(|(step, _)| *step <= latest) => {
                self.latest_checkpoint().map(Some)
            }
            (_, newest) => Ok(newest.map(|(_, path)| path)),
        }
    }

    /// What to remove so that the run is used without `checkpoint`: its folder, and `latest` if
    /// that names it.
    pub fn removal_of(&self, checkpoint: &Path) -> String {
        let latest = self.latest();
        let is_latest = self.latest_step().is_ok_and(|step| step == Self::step_of(checkpoint));
        if is_latest && latest.exists() {
            format!("{} and {}", checkpoint.display(), latest.display())
        } else {
            checkpoint.display().to_string()
        }
    }

    /// The folder of the checkpoint that `latest` names. If the file is missing or empty, for
    /// example in a copy, the newest complete checkpoint.
    ///
    /// # Errors
    /// If the run has no checkpoint, or if `latest` names one that does not exist.
    pub fn latest_checkpoint(&self) -> Result<PathBuf, FileError> {
        let newest = self.complete_checkpoints().pop().map(|(_, path)| path);
        let Some(step) = self.latest_step()? else {
            let problem = "this run has no checkpoint yet";
            return newest.ok_or_else(|| FileError::unusable(&self.root, problem));
        };
        let path = self.checkpoint(step);
        if path.is_dir() {
            return Ok(path);
        }
        let problem = missing(&Self::step_name(step)) + &advice(newest.as_deref());
        Err(FileError::unusable(&self.latest(), problem))
    }
}

/// What to do about a wrong `latest`, if there is a complete checkpoint.
fn advice(newest: Option<&Path>) -> String {
    newest.map_or_else(String::new, |newest| {
        format!("; remove this file to use the newest complete checkpoint, {}", newest.display())
    })
}

fn missing(checkpoint: &str) -> String {
    format!("it names the checkpoint `{checkpoint}`, which does not exist")
}
