//! The folder of a run, as training uses it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use diffusion_files::{FileError, is_leftover, read_file, remove_folder, write_file};
use diffusion_model::RunLayout;

use crate::{ConfigSource, StepMetrics, TrainConfig, TrainError};

/// The folder of a run; [`RunLayout`] says where things are in it.
#[derive(Debug)]
pub struct RunDir {
    layout: RunLayout,
    /// Held while this process may train in the folder.
    lock: Option<File>,
}

impl RunDir {
    /// Makes the folder, or takes one that holds no run yet, and saves `config` there.
    ///
    /// # Errors
    /// A folder that already holds a run; what the system refuses.
    pub fn create(path: &Path, config: &TrainConfig) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(FileError::io(path))?;
        let mut run = Self { layout: RunLayout::new(path), lock: None };
        run.lock = Some(run.take_lock()?);
        if run.layout.config().exists() || run.layout.has_checkpoint() {
            return Err(TrainError::RunExists { path: path.to_owned() });
        }
        for dir in [run.layout.samples(), run.layout.checkpoints()] {
            fs::create_dir_all(&dir).map_err(FileError::io(&dir))?;
        }
        run.write_config(config)?;
        Ok(run)
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

    /// Where things are in the folder.
    pub fn layout(&self) -> &RunLayout {
        &self.layout
    }

    /// The configuration that the run was started or last resumed with.
    ///
    /// # Errors
    /// A file that is not a configuration.
    pub fn read_config(&self) -> Result<TrainConfig, TrainError> {
        let path = self.layout.config();
        let text = self.config_text()?;
        Ok(TrainConfig::from_source(&ConfigSource { path, text })?)
    }

    /// The configuration as it stands in the folder.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn config_text(&self) -> Result<String, TrainError> {
        let path = self.layout.config();
        Ok(fs::read_to_string(&path).map_err(FileError::io(&path))?)
    }

    /// The metrics of all steps so far; a line that was cut short, and what comes after it, is left out.
    ///
    /// # Errors
    /// What the system refuses. A run that has made no step yet has no metrics, which is no error.
    pub fn read_metrics(&self) -> Result<Vec<StepMetrics>, TrainError> {
        let path = self.layout.metrics();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = read_file(&path)?;
        Ok(whole_lines(&String::from_utf8_lossy(&text)).map(|(_, metrics)| metrics).collect())
    }

    /// The grids that were drawn, by their steps.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn grids(&self) -> Result<Vec<(u64, PathBuf)>, TrainError> {
        let drawn = entries(&self.layout.samples())?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|e| e == "png"));
        let mut grids: Vec<(u64, PathBuf)> = drawn
            .filter_map(|path| Some((RunLayout::step_of(&path.with_extension(""))?, path)))
            .collect();
        grids.sort();
        Ok(grids)
    }

    pub(crate) fn write_config(&self, config: &TrainConfig) -> Result<(), TrainError> {
        Ok(write_file(&self.layout.config(), config.to_toml()?.as_bytes())?)
    }

    /// Whether this process may train in the folder: it was created or resumed, not just opened.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Keeps other processes from training in this folder for as long as the returned file is open.
    fn take_lock(&self) -> Result<File, TrainError> {
        let path = self.layout.lock();
        let file = File::create(&path).map_err(FileError::io(&path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                Err(FileError::unusable(self.path(), "another process is training in this folder")
                    .into())
            }
            // A file system without locks is no reason not to train.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        }
    }

    pub(crate) fn set_latest(&self, step: u64) -> Result<(), TrainError> {
        Ok(write_file(
            &self.layout.latest(),
            format!("{}\n", RunLayout::step_name(step)).as_bytes(),
        )?)
    }

    /// Removes all checkpoints but the newest `keep` up to that of `step`, the one just saved. Later ones are what a
    /// killed process saved and did not live to call the latest; they go first.
    pub(crate) fn prune_checkpoints(&self, step: u64, keep: usize) -> Result<(), TrainError> {
        let mut whole: Vec<(u64, PathBuf)> = entries(&self.layout.checkpoints())?
            .into_iter()
            .filter_map(|path| Some((RunLayout::step_of(&path)?, path)))
            .collect();
        whole.sort_by_key(|(of, _)| (*of <= step, *of));
        let surplus = whole.len().saturating_sub(keep);
        Ok(whole[..surplus].iter().try_for_each(|(_, path)| remove_folder(path))?)
    }

    /// Opens `metrics.jsonl` to append, after cutting off whatever was written after `step` updates.
    pub(crate) fn open_metrics(&self, step: u64) -> Result<MetricsFile, TrainError> {
        let path = self.layout.metrics();
        if path.exists() {
            let kept = whole_lines_up_to(&path, step)?;
            write_file(&path, kept.as_bytes())?;
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
    /// Writes one line, visible to readers at once.
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

/// The lines of `metrics.jsonl` and what they say. A line cut short by a killed process does not parse, and nothing after it counts.
fn whole_lines(text: &str) -> impl Iterator<Item = (&str, StepMetrics)> {
    text.lines().map_while(|line| Some((line, serde_json::from_str(line).ok()?)))
}

fn whole_lines_up_to(path: &Path, step: u64) -> Result<String, TrainError> {
    let text = read_file(path)?;
    let text = String::from_utf8_lossy(&text);
    let kept = whole_lines(&text).take_while(|(_, metrics)| metrics.step <= step);
    Ok(kept.flat_map(|(line, _)| [line, "\n"]).collect())
}
