//! Saved averages of the weights in a run's folder, and averages of any length computed from them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use diffusion_files::{DescribedTensors, FileError};
use diffusion_model::RunLayout;

use crate::{PowerProfile, TrainError, Trainer};

/// The key of the profiles in the metadata of a file.
const DESCRIPTION: &str = "averages";
/// What the files are, for errors.
const KIND: &str = "file of averaged weights";

/// Writes the averages of `trainer` into the run's folder, in half precision; does nothing before
/// their first update.
pub(super) fn save_averages(trainer: &Trainer, layout: &RunLayout) -> Result<(), TrainError> {
    let Some((profiles, tensors)) = trainer.averages() else { return Ok(()) };
    let half = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_dtype(DType::F16)?));
    let tensors = tensors.into_iter().map(half).collect::<candle_core::Result<_>>()?;
    let folder = layout.averages();
    std::fs::create_dir_all(&folder).map_err(FileError::io(&folder))?;
    let file = layout.averages_after(profiles[0].step);
    Ok(DescribedTensors { description: profiles, tensors }.write(DESCRIPTION, &file)?)
}

/// Removes averages after more than `step` updates, which a resumed training will make again.
pub(super) fn remove_later_averages(layout: &RunLayout, step: u64) -> Result<(), TrainError> {
    for (saved, path) in files(layout)? {
        if saved > step {
            std::fs::remove_file(&path).map_err(FileError::io(&path))?;
        }
    }
    Ok(())
}

/// The saved averages of a run.
///
/// A training saves them if `checkpoint.averages` of its configuration is above 0.
#[derive(Clone, Debug)]
pub struct SavedAverages {
    files: Vec<PathBuf>,
    profiles: Vec<[PowerProfile; 2]>,
}

impl SavedAverages {
    /// Finds the averages in the folder of a run, up to `step` updates.
    ///
    /// # Errors
    /// If there are none; if a file cannot be read or is damaged.
    pub fn open(layout: &RunLayout, step: u64) -> Result<Self, TrainError> {
        let (mut found, mut profiles) = (Vec::new(), Vec::new());
        for (_, path) in files(layout)?.into_iter().filter(|(saved, _)| *saved <= step) {
            let file = DescribedTensors::<[PowerProfile; 2]>::read(
                &path,
                DESCRIPTION,
                KIND,
                &Device::Cpu,
            )?;
            profiles.push(file.description);
            found.push(path);
        }
        if found.is_empty() {
            let problem = match files(layout)?.first() {
                Some((first, _)) => format!(
                    "the run saved no averages of the weights up to step {step}, the first after \
                     step {first}"
                ),
                None => "the run saved no averages of the weights; train it with \
                         checkpoint.averages above 0 (flag --averages)"
                    .to_owned(),
            };
            return Err(FileError::unusable(layout.root(), problem).into());
        }
        Ok(Self { files: found, profiles })
    }

    /// The number of updates after which averages were saved.
    pub fn steps(&self) -> Vec<u64> {
        self.profiles.iter().map(|profiles| profiles[0].step).collect()
    }

    /// The average of `length` after the last saved step: the standard deviation of the averaged
    /// steps divided by their number, above 0 and at most [`PowerProfile::MAX_LENGTH`]. Also
    /// returns the relative error of its profile: the saved averages may be too few for a length.
    ///
    /// # Errors
    /// If a file cannot be read or is damaged; if files have different tensors.
    pub fn average(&self, length: f64) -> Result<(BTreeMap<String, Tensor>, f64), TrainError> {
        let last = self.profiles.last().map_or(1, |profiles| profiles[0].step);
        let target = PowerProfile::of_length(length, last);
        let (coefficients, error) = target.coefficients(&self.profiles.concat());
        let mut sums: BTreeMap<String, Tensor> = BTreeMap::new();
        for (path, coefficients) in self.files.iter().zip(coefficients.chunks_exact(2)) {
            let file =
                DescribedTensors::<[PowerProfile; 2]>::read(path, DESCRIPTION, KIND, &Device::Cpu)?;
            let has_all = sums.keys().all(|name| {
                (0..2).all(|which| file.tensors.contains_key(&format!("{which}/{name}")))
            });
            if !has_all {
                let problem = "it lacks tensors that the averages of earlier steps have";
                return Err(FileError::unusable(path, problem).into());
            }
            for (key, tensor) in file.tensors {
                let (which, name) = key.split_once('/').unwrap_or(("", ""));
                let Some(coefficient) = which.parse().ok().and_then(|i: usize| coefficients.get(i))
                else {
                    let problem = format!("unknown tensor `{key}`");
                    return Err(FileError::unusable(path, problem).into());
                };
                let part = tensor.to_dtype(DType::F32)?.affine(*coefficient, 0.0)?;
                let sum = match sums.remove(name) {
                    Some(sum) => (sum + part)?,
                    None => part,
                };
                sums.insert(name.to_owned(), sum);
            }
        }
        Ok((sums, error))
    }
}

/// The steps and files of the saved averages, in the order of steps.
fn files(layout: &RunLayout) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let folder = layout.averages();
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&folder).map_err(FileError::io(&folder))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(FileError::io(&folder))?.path();
        if let Some(step) = RunLayout::step_of(&path.with_extension("")) {
            files.push((step, path));
        }
    }
    files.sort();
    Ok(files)
}
