//! The folder of a run: creation, locking, metrics and clean-up.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use diffusion_files::{FileError, is_leftover, read_file, remove_folder, write_file};
use diffusion_model::{ModelState, RunLayout};

use crate::{ConfigSource, StepMetrics, TrainConfig, TrainError, Trainer};

/// The folder of a run. [`RunLayout`] holds the paths in it.
#[derive(Debug)]
pub struct RunDir {
    layout: RunLayout,
    /// The lock file, open while this process may train in the folder.
    lock: Option<File>,
}

impl RunDir {
    /// Creates the folder of a new run, or uses a folder that holds no run, and saves `config`
    /// there.
    ///
    /// # Errors
    /// If the folder already holds a run; if another process trains in it; an I/O error of the
    /// operating system.
    pub fn create(path: &Path, config: &TrainConfig) -> Result<Self, TrainError> {
        let run = Self::prepare(path)?;
        run.write_config(config)?;
        Ok(run)
    }

    /// As [`create`](Self::create), for a trainer that has not taken a step, with its checkpoint. A
    /// process killed in the middle leaves no run, or one that resumes from these weights.
    ///
    /// # Errors
    /// Those of [`create`](Self::create), and those of [`Trainer::checkpoint`].
    pub fn start(path: &Path, trainer: &Trainer) -> Result<Self, TrainError> {
        let run = Self::prepare(path)?;
        run.save(trainer)?;
        run.write_config(trainer.config())?;
        Ok(run)
    }

    /// Locks a folder that holds no run, and creates the folders in it.
    fn prepare(path: &Path) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(FileError::io(path))?;
        let mut run = Self { layout: RunLayout::new(path), lock: None };
        run.lock = Some(run.take_lock()?);
        // Without a configuration, a checkpoint of step 0 is the rest of a run that never started.
        let rest = run.layout.complete_checkpoints();
        if run.layout.config().exists() || rest.iter().any(|(step, _)| *step > 0) {
            return Err(TrainError::RunExists { path: path.to_owned() });
        }
        rest.iter().try_for_each(|(_, path)| remove_folder(path))?;
        run.create_folders()?;
        Ok(run)
    }

    fn create_folders(&self) -> Result<(), TrainError> {
        for dir in [self.layout.samples(), self.layout.checkpoints()] {
            fs::create_dir_all(&dir).map_err(FileError::io(&dir))?;
        }
        Ok(())
    }

    /// Saves a checkpoint and removes old ones. Returns its folder.
    pub(crate) fn save(&self, trainer: &Trainer) -> Result<PathBuf, TrainError> {
        let step = trainer.steps_done();
        let path = self.layout.checkpoint(step);
        trainer.checkpoint()?.write(&path)?;
        self.set_latest(step)?;
        self.prune_checkpoints(step, trainer.config().checkpoint.keep)?;
        Ok(path)
    }

    /// Opens the folder of an existing run to train in it, and locks it until this value is
    /// dropped.
    ///
    /// Removes incomplete files left by a killed process. [`RunLayout::resumed_checkpoint`] is the
    /// one to restore; `latest` changes when the training begins.
    ///
    /// # Errors
    /// If the folder holds no run; if another process trains in it; if steps were trained and no
    /// checkpoint is left; if a newer checkpoint than the newest complete one is damaged or has
    /// another name; an I/O error of the operating system.
    pub fn resume(path: &Path) -> Result<Self, TrainError> {
        let mut run = Self::open(path)?;
        run.lock = Some(run.take_lock()?);
        // Some copies leave out empty folders.
        run.create_folders()?;
        run.clear_leftovers()?;
        let newest = run.layout.complete_checkpoints().pop().map(|(step, _)| step);
        run.check_newer(newest)?;
        if newest.is_none() && !run.read_metrics()?.is_empty() {
            let metrics = run.layout.metrics();
            let problem = format!(
                "the run has trained, but holds no checkpoint; put its checkpoints back, or remove \
                 {} to start from step 0",
                metrics.display()
            );
            return Err(FileError::unusable(&run.layout.checkpoints(), problem).into());
        }
        Ok(run)
    }

    /// Fails if a checkpoint newer than `newest`, the newest complete one, is damaged or has the
    /// name of another step: a training would repeat its steps, and a save could replace it.
    fn check_newer(&self, newest: Option<u64>) -> Result<(), TrainError> {
        for path in entries(&self.layout.checkpoints())? {
            let step = RunLayout::step_of(&path);
            let problem = match ModelState::read(&path) {
                Ok(state) if Some(state.step) > newest => format!(
                    "this folder holds the checkpoint of step {0}; rename it to {1} to continue \
                     from it, or move it away",
                    state.step,
                    RunLayout::step_name(state.step)
                ),
                Err(e) if step.is_some() && step > newest && !entries(&path)?.is_empty() => {
                    let rest = match newest {
                        Some(newest) => format!(
                            "continue from the newest complete checkpoint, {}",
                            RunLayout::step_name(newest)
                        ),
                        None => "start from step 0".to_owned(),
                    };
                    let removal = self.layout.removal_of(&path);
                    format!("this checkpoint is damaged ({e}); remove {removal} to {rest}")
                }
                _ => continue,
            };
            return Err(FileError::unusable(&path, problem).into());
        }
        Ok(())
    }

    /// Opens the folder of an existing run for reading.
    ///
    /// # Errors
    /// If the folder holds no run.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let layout = RunLayout::new(path);
        layout.check()?;
        Ok(Self { layout, lock: None })
    }

    fn clear_leftovers(&self) -> Result<(), TrainError> {
        for dir in [self.path().to_owned(), self.layout.checkpoints(), self.layout.samples()] {
            for path in entries(&dir)? {
                if is_leftover(&name_of(&path)) {
                    if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                        .map_err(FileError::io(&path))?;
                }
            }
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.layout.root()
    }

    /// The paths in the folder.
    pub fn layout(&self) -> &RunLayout {
        &self.layout
    }

    /// Reads the configuration with which the run was started or last resumed.
    ///
    /// # Errors
    /// If the file is empty or not a configuration; an I/O error of the operating system.
    pub fn read_config(&self) -> Result<TrainConfig, TrainError> {
        let path = self.layout.config();
        let text = self.config_text()?;
        if text.trim().is_empty() {
            return Err(FileError::unusable(&path, "the file is empty").into());
        }
        Ok(TrainConfig::from_source(&ConfigSource { path, text })?)
    }

    /// The text of the configuration file in the folder.
    ///
    /// # Errors
    /// An I/O error of the operating system.
    pub fn config_text(&self) -> Result<String, TrainError> {
        let path = self.layout.config();
        Ok(fs::read_to_string(&path).map_err(FileError::io(&path))?)
    }

    /// Reads the metrics of all steps so far; a run without steps has none. An incomplete line and
    /// all lines after it are left out.
    ///
    /// # Errors
    /// An I/O error of the operating system.
    pub fn read_metrics(&self) -> Result<Vec<StepMetrics>, TrainError> {
        let path = self.layout.metrics();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = read_file(&path)?;
        Ok(complete_lines(&String::from_utf8_lossy(&text)).map(|(_, metrics)| metrics).collect())
    }

    /// The steps and paths of the sample grids, in the order of steps.
    ///
    /// # Errors
    /// An I/O error of the operating system.
    pub fn grids(&self) -> Result<Vec<(u64, PathBuf)>, TrainError> {
        let pictures = entries(&self.layout.samples())?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|e| e == "png"));
        let mut grids: Vec<(u64, PathBuf)> = pictures
            .filter_map(|path| Some((RunLayout::step_of(&path.with_extension(""))?, path)))
            .collect();
        grids.sort();
        Ok(grids)
    }

    pub(crate) fn write_config(&self, config: &TrainConfig) -> Result<(), TrainError> {
        Ok(write_file(&self.layout.config(), config.to_toml()?.as_bytes())?)
    }

    /// Whether this process may train in the folder: it was created or resumed, not only opened.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Locks the folder against other trainings while the returned file is open.
    fn take_lock(&self) -> Result<File, TrainError> {
        let path = self.layout.lock();
        let file = File::create(&path).map_err(FileError::io(&path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                Err(FileError::unusable(self.path(), "another process is training in this folder")
                    .into())
            }
            // Train without a lock if the file system has no locks.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        }
    }

    pub(crate) fn set_latest(&self, step: u64) -> Result<(), TrainError> {
        Ok(write_file(
            &self.layout.latest(),
            format!("{}\n", RunLayout::step_name(step)).as_bytes(),
        )?)
    }

    /// Removes all checkpoints except the newest `keep` up to the one of `step`, just saved. No
    /// complete checkpoint of a later step exists, because a run continues from the newest one.
    fn prune_checkpoints(&self, step: u64, keep: usize) -> Result<(), TrainError> {
        let mut checkpoints: Vec<(u64, PathBuf)> = entries(&self.layout.checkpoints())?
            .into_iter()
            .filter_map(|path| Some((RunLayout::step_of(&path)?, path)))
            .collect();
        checkpoints.sort_by_key(|(saved, _)| (*saved <= step, *saved));
        let surplus = checkpoints.len().saturating_sub(keep);
        Ok(checkpoints[..surplus].iter().try_for_each(|(_, path)| remove_folder(path))?)
    }

    /// Opens `metrics.jsonl` for appending, after removing the lines of steps after `step`.
    pub(crate) fn open_metrics(&self, step: u64) -> Result<MetricsFile, TrainError> {
        let path = self.layout.metrics();
        if path.exists() {
            let lines = complete_lines_up_to(&path, step)?;
            write_file(&path, lines.as_bytes())?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(FileError::io(&path))?;
        Ok(MetricsFile { file: BufWriter::new(file), path })
    }
}

/// `metrics.jsonl`, open for appending.
pub(crate) struct MetricsFile {
    file: BufWriter<File>,
    path: PathBuf,
}

impl MetricsFile {
    /// Writes one line and flushes it, so that readers see it at once.
    pub(crate) fn write(&mut self, metrics: &StepMetrics) -> Result<(), FileError> {
        serde_json::to_writer(&mut self.file, metrics)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .and_then(|()| self.file.flush())
            .map_err(FileError::io(&self.path))
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = fs::read_dir(dir).map_err(FileError::io(dir))?;
    entries.map(|entry| Ok(entry.map_err(FileError::io(dir))?.path())).collect()
}

/// The lines of `metrics.jsonl` and their values, up to the first line that does not parse, which a
/// killed process left incomplete.
fn complete_lines(text: &str) -> impl Iterator<Item = (&str, StepMetrics)> {
    text.lines().map_while(|line| Some((line, serde_json::from_str(line).ok()?)))
}

fn complete_lines_up_to(path: &Path, step: u64) -> Result<String, TrainError> {
    let text = read_file(path)?;
    let text = String::from_utf8_lossy(&text);
    let lines = complete_lines(&text).take_while(|(_, metrics)| metrics.step <= step);
    Ok(lines.flat_map(|(line, _)| [line, "\n"]).collect())
}
