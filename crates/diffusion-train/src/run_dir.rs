//! The folder of a run.
//!
//! ```text
//! config.toml              the resolved configuration
//! metrics.jsonl            a line a step
//! samples/step-0000100.png the grid after step 100
//! checkpoints/step-0000100 the training after step 100
//! latest                   the name of the newest whole checkpoint
//! lock                     held by the process that trains
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::checkpoint::{is_leftover, remove_folder, write_atomically};
use crate::{Checkpoint, ConfigSource, StepMetrics, TrainConfig, TrainError};

/// A run's folder.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held while this process may train in the folder.
    lock: Option<File>,
}

impl RunDir {
    /// Makes the folder, or takes one that holds no run yet, and saves `config` there.
    ///
    /// # Errors
    /// A folder that already holds a run; what the system refuses.
    pub fn create(path: &Path, config: &TrainConfig) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(TrainError::io(path))?;
        let mut run = Self { path: path.to_owned(), lock: None };
        run.lock = Some(run.take_lock()?);
        if run.config_path().exists() || run.latest_path().exists() {
            return Err(TrainError::unusable(
                path,
                "this folder already holds a run; go on with it by --resume, or choose another folder",
            ));
        }
        for dir in [run.samples_path(), run.checkpoints_path()] {
            fs::create_dir_all(&dir).map_err(TrainError::io(&dir))?;
        }
        run.write_config(config)?;
        Ok(run)
    }

    /// The checkpoint that the folder at `path` is, or the newest in the run that it is.
    ///
    /// # Errors
    /// A folder that is neither; a run without a checkpoint.
    pub fn checkpoint_at(path: &Path) -> Result<PathBuf, TrainError> {
        if path.join(Checkpoint::STATE_FILE).is_file() {
            return Ok(path.to_owned());
        }
        Self::open(path)?.latest_checkpoint()
    }

    /// Opens the folder of an existing run to go on training in it: nobody else can until this value is dropped. Clears
    /// away what a killed process left unfinished.
    ///
    /// # Errors
    /// A folder without a run, or in which another process trains.
    pub fn resume(path: &Path) -> Result<Self, TrainError> {
        let mut run = Self::open(path)?;
        run.lock = Some(run.take_lock()?);
        run.clear_leftovers()?;
        Ok(run)
    }

    /// Opens the folder of an existing run to look at it.
    ///
    /// # Errors
    /// A folder without a run.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let run = Self { path: path.to_owned(), lock: None };
        if !run.config_path().is_file() {
            return Err(TrainError::unusable(path, "this folder holds no run: it has no config.toml"));
        }
        Ok(run)
    }

    fn clear_leftovers(&self) -> Result<(), TrainError> {
        for dir in [self.path.clone(), self.checkpoints_path(), self.samples_path()] {
            for path in entries(&dir)? {
                if is_leftover(&name_of(&path)) {
                    if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                        .map_err(TrainError::io(&path))?;
                }
            }
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration that the run was started or last resumed with.
    ///
    /// # Errors
    /// A file that is not a configuration.
    pub fn read_config(&self) -> Result<TrainConfig, TrainError> {
        let path = self.config_path();
        let text = self.config_text()?;
        Ok(TrainConfig::from_source(&ConfigSource { path, text })?)
    }

    /// The configuration as it stands in the folder.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn config_text(&self) -> Result<String, TrainError> {
        let path = self.config_path();
        fs::read_to_string(&path).map_err(TrainError::io(&path))
    }

    /// The metrics of all steps so far; a line that was cut short, and what comes after it, is left out.
    ///
    /// # Errors
    /// What the system refuses. A run that has made no step yet has no metrics, which is no error.
    pub fn read_metrics(&self) -> Result<Vec<StepMetrics>, TrainError> {
        let path = self.metrics_path();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read(&path).map_err(TrainError::io(&path))?;
        Ok(whole_lines(&String::from_utf8_lossy(&text)).map(|(_, metrics)| metrics).collect())
    }

    /// The grids that were drawn, by their steps.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn grids(&self) -> Result<Vec<(u64, PathBuf)>, TrainError> {
        let drawn = entries(&self.samples_path())?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|e| e == "png"));
        let mut grids: Vec<(u64, PathBuf)> =
            drawn.filter_map(|path| Some((step_of(&path.with_extension(""))?, path))).collect();
        grids.sort();
        Ok(grids)
    }

    pub(crate) fn write_config(&self, config: &TrainConfig) -> Result<(), TrainError> {
        write_atomically(&self.config_path(), config.to_toml()?.as_bytes())
    }

    /// Whether this process may train in the folder: it was created or resumed, not just opened.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Keeps other processes from training in this folder for as long as the returned file is open.
    fn take_lock(&self) -> Result<File, TrainError> {
        let path = self.path.join("lock");
        let file = File::create(&path).map_err(TrainError::io(&path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                Err(TrainError::unusable(&self.path, "another process is training in this folder"))
            }
            // A file system without locks is no reason not to train.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        }
    }

    /// Whether there is a checkpoint to go on from.
    pub fn has_checkpoint(&self) -> bool {
        self.latest_path().exists()
    }

    /// The newest whole checkpoint.
    ///
    /// # Errors
    /// A run that has none yet.
    pub fn latest_checkpoint(&self) -> Result<PathBuf, TrainError> {
        let file = self.latest_path();
        if !self.has_checkpoint() {
            return Err(TrainError::unusable(&self.path, "this run has no checkpoint yet"));
        }
        let name = fs::read_to_string(&file).map_err(TrainError::io(&file))?;
        let path = self.checkpoints_path().join(name.trim_end());
        if step_of(&path).is_none() || !path.is_dir() {
            let problem = format!("it names the checkpoint `{}`, which does not exist", name.trim_end());
            return Err(TrainError::unusable(&file, problem));
        }
        Ok(path)
    }

    pub(crate) fn set_latest(&self, step: u64) -> Result<(), TrainError> {
        write_atomically(&self.latest_path(), format!("{}\n", step_name(step)).as_bytes())
    }

    /// Where the checkpoint after `step` updates goes.
    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.checkpoints_path().join(step_name(step))
    }

    /// Where the grid after `step` updates goes.
    pub fn grid_path(&self, step: u64) -> PathBuf {
        self.samples_path().join(format!("{}.png", step_name(step)))
    }

    /// Removes all checkpoints but the newest `keep` up to that of `step`, the one just saved. Later ones are what a
    /// killed process saved and did not live to call the latest; they go first.
    pub(crate) fn prune_checkpoints(&self, step: u64, keep: usize) -> Result<(), TrainError> {
        let mut whole: Vec<(u64, PathBuf)> = entries(&self.checkpoints_path())?
            .into_iter()
            .filter_map(|path| Some((step_of(&path)?, path)))
            .collect();
        whole.sort_by_key(|(of, _)| (*of <= step, *of));
        let surplus = whole.len().saturating_sub(keep);
        whole[..surplus].iter().try_for_each(|(_, path)| remove_folder(path))
    }

    /// Opens `metrics.jsonl` to append, after cutting off whatever was written after `step` updates.
    pub(crate) fn open_metrics(&self, step: u64) -> Result<MetricsFile, TrainError> {
        let path = self.metrics_path();
        if path.exists() {
            let kept = whole_lines_up_to(&path, step)?;
            write_atomically(&path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(TrainError::io(&path))?;
        Ok(MetricsFile { file: BufWriter::new(file), path })
    }

    fn config_path(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    fn metrics_path(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    fn latest_path(&self) -> PathBuf {
        self.path.join("latest")
    }

    fn samples_path(&self) -> PathBuf {
        self.path.join("samples")
    }

    fn checkpoints_path(&self) -> PathBuf {
        self.path.join("checkpoints")
    }
}

/// `metrics.jsonl`, open for appending.
pub(crate) struct MetricsFile {
    file: BufWriter<File>,
    path: PathBuf,
}

impl MetricsFile {
    /// Writes one line, visible to readers at once.
    pub(crate) fn write(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        serde_json::to_writer(&mut self.file, metrics)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .and_then(|()| self.file.flush())
            .map_err(TrainError::io(&self.path))
    }
}

fn step_name(step: u64) -> String {
    format!("step-{step:07}")
}

/// The inverse of [`step_name`], for the last part of a path.
fn step_of(path: &Path) -> Option<u64> {
    name_of(path).strip_prefix("step-")?.parse().ok()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = fs::read_dir(dir).map_err(TrainError::io(dir))?;
    entries.map(|entry| Ok(entry.map_err(TrainError::io(dir))?.path())).collect()
}

/// The lines of `metrics.jsonl` and what they say. A line cut short by a killed process does not parse, and nothing after it counts.
fn whole_lines(text: &str) -> impl Iterator<Item = (&str, StepMetrics)> {
    text.lines().map_while(|line| Some((line, serde_json::from_str(line).ok()?)))
}

fn whole_lines_up_to(path: &Path, step: u64) -> Result<String, TrainError> {
    let text = fs::read(path).map_err(TrainError::io(path))?;
    let text = String::from_utf8_lossy(&text);
    let kept = whole_lines(&text).take_while(|(_, metrics)| metrics.step <= step);
    Ok(kept.flat_map(|(line, _)| [line, "\n"]).collect())
}
