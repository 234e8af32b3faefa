//! Which noise levels training looks at, and how often.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use diffusion_model::Objective;
use diffusion_process::NoiseLevel;
use diffusion_random::{Domain, NoiseSource};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::restore::{CheckpointFile, RestoreError};

/// How the levels of a batch are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSampling {
    /// Each by itself.
    #[default]
    Uniform,
    /// Evenly over the whole range, with one offset a batch (Kingma et al. 2021, appendix I.1): the mean loss of a batch
    /// varies less.
    LowDiscrepancy,
    /// Timesteps of large losses more often, their losses counting less, so that the mean loss stays what it is (Nichol &
    /// Dhariwal 2021, section 3.3).
    Importance,
}

/// The levels of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnLevels {
    /// One an image.
    pub levels: Vec<NoiseLevel>,
    /// What each image's loss counts, 1 on average; none: 1.
    pub weights: Option<Vec<f64>>,
}

impl DrawnLevels {
    /// The mean of `losses`, each counted as it is to be.
    pub fn mean(&self, losses: &[f32]) -> f64 {
        let weight = |i: usize| self.weights.as_ref().map_or(1.0, |weights| weights[i]);
        losses.iter().enumerate().map(|(i, &loss)| weight(i) * f64::from(loss)).sum::<f64>()
            / losses.len() as f64
    }

    /// `losses` (n), those of the images from `first` on, each counted as it is to be.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn weigh(&self, losses: &Tensor, first: usize) -> Result<Tensor> {
        match &self.weights {
            None => Ok(losses.clone()),
            Some(weights) => {
                let weights = weights[first..first + losses.dim(0)?].to_vec();
                losses * Tensor::new(weights, losses.device())?.to_dtype(losses.dtype())?
            }
        }
    }
}

/// Draws levels by keyed randomness; all that it remembers is the losses that importance sampling goes by.
#[derive(Clone, Debug)]
pub struct LevelSampler {
    sampling: TimestepSampling,
    history: Option<LossHistory>,
}

impl LevelSampler {
    /// A sampler at the beginning of a training. Importance sampling counts timesteps, so it needs a diffusion; elsewhere
    /// it is uniform.
    pub fn new(sampling: TimestepSampling, objective: &Objective) -> Self {
        let history = match (sampling, objective.schedule()) {
            (TimestepSampling::Importance, Some(schedule)) => {
                Some(LossHistory::new(schedule.len()))
            }
            _ => None,
        };
        Self { sampling, history }
    }

    /// The levels of the `n` images of step `step`.
    pub fn draw(
        &self,
        objective: &Objective,
        source: NoiseSource,
        step: u64,
        n: usize,
    ) -> DrawnLevels {
        let rng = |i: usize| source.rng(Domain::Timestep, step, i as u64);
        let levels = match (self.sampling, objective, &self.history) {
            (TimestepSampling::LowDiscrepancy, ..) => {
                let mut rng = rng(0);
                let offset: f64 = rng.random();
                let mut order: Vec<usize> = (0..n).collect();
                order.shuffle(&mut rng);
                order
                    .into_iter()
                    .map(|i| objective.level_at((i as f64 + offset) / n as f64))
                    .collect()
            }
            (_, Objective::Diffusion { schedule, .. }, Some(history)) => {
                let probabilities = history.probabilities();
                let chosen: Vec<usize> =
                    (0..n).map(|i| pick(&probabilities, rng(i).random())).collect();
                let weight = |&t: &usize| 1.0 / (schedule.len() as f64 * probabilities[t]);
                let weights = Some(chosen.iter().map(weight).collect());
                return DrawnLevels {
                    levels: chosen.into_iter().map(|t| schedule.level(t)).collect(),
                    weights,
                };
            }
            (_, Objective::Diffusion { schedule, .. }, None) => {
                (0..n).map(|i| schedule.level(rng(i).random_range(0..schedule.len()))).collect()
            }
            _ => (0..n).map(|i| objective.level_at(rng(i).random())).collect(),
        };
        DrawnLevels { levels, weights: None }
    }

    /// Takes in the losses of images at `levels`, before they are weighed for the gradient.
    pub fn record(&mut self, levels: &[NoiseLevel], losses: &[f32]) {
        if let Some(history) = &mut self.history {
            for (level, &loss) in levels.iter().zip(losses) {
                history.push(level.timestep as usize, loss);
            }
        }
    }

    /// What is remembered, if anything is.
    pub fn history(&self) -> Option<&LossHistory> {
        self.history.as_ref()
    }

    /// Goes on from what was remembered. Nothing is changed if it does not fit.
    ///
    /// # Errors
    /// A memory where none is used, none where one is, or one of another number of timesteps.
    pub fn restore(
        &mut self,
        history: Option<LossHistory>,
    ) -> std::result::Result<(), RestoreError> {
        let steps = |history: &Option<LossHistory>| {
            history.as_ref().map_or(0, |history| history.losses.len())
        };
        let (found, expected) = (steps(&history), steps(&self.history));
        if found != expected {
            let problem =
                format!("it remembers the losses of {found} timesteps, the run needs {expected}");
            return Err(history_error(problem));
        }
        self.history = history;
        Ok(())
    }
}

/// Losses remembered of each timestep.
const HISTORY: usize = 10;

/// The share of draws that are uniform whatever the losses are, so that no timestep is forgotten.
const UNIFORM_SHARE: f64 = 0.001;

/// The last ten losses of each timestep, the oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct LossHistory {
    losses: Vec<Vec<f32>>,
}

impl LossHistory {
    /// The tensor that holds it in a file.
    const TENSOR: &str = "loss_history";

    /// Of `steps` timesteps, with nothing in it.
    pub fn new(steps: usize) -> Self {
        Self { losses: vec![Vec::new(); steps] }
    }

    /// Takes in a loss; timesteps that are not its own leave it as it is.
    pub fn push(&mut self, timestep: usize, loss: f32) {
        if let Some(losses) = self.losses.get_mut(timestep) {
            if losses.len() == HISTORY {
                losses.remove(0);
            }
            losses.push(loss);
        }
    }

    /// p_t ∝ √(mean of L_t²) (Nichol & Dhariwal 2021, eq. 18), once every timestep has ten losses to say so; uniform until then.
    pub fn probabilities(&self) -> Vec<f64> {
        let steps = self.losses.len() as f64;
        let square = |loss: &f32| f64::from(*loss).powi(2);
        let root =
            |losses: &Vec<f32>| (losses.iter().map(square).sum::<f64>() / HISTORY as f64).sqrt();
        let roots: Vec<f64> = self.losses.iter().map(root).collect();
        let total: f64 = roots.iter().sum();
        if self.losses.iter().any(|losses| losses.len() < HISTORY)
            || !total.is_finite()
            || total <= 0.0
        {
            return vec![1.0 / steps; self.losses.len()];
        }
        roots
            .iter()
            .map(|root| (1.0 - UNIFORM_SHARE) * root / total + UNIFORM_SHARE / steps)
            .collect()
    }

    /// `loss_history` (T, 10) in f32, NaN where there is no loss yet.
    ///
    /// # Errors
    /// None in practice: the numbers fill the shape.
    pub fn to_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let padded = |losses: &Vec<f32>| {
            losses.iter().copied().chain(std::iter::repeat(f32::NAN)).take(HISTORY).collect()
        };
        let rows: Vec<Vec<f32>> = self.losses.iter().map(padded).collect();
        Ok(BTreeMap::from([(Self::TENSOR.to_owned(), Tensor::new(rows, &Device::Cpu)?)]))
    }

    /// The inverse of [`to_tensors`](Self::to_tensors).
    ///
    /// # Errors
    /// A tensor that is missing, unknown, or of another width or type.
    pub fn from_tensors(
        mut tensors: BTreeMap<String, Tensor>,
    ) -> std::result::Result<Self, RestoreError> {
        let name = Self::TENSOR;
        let tensor = tensors
            .remove(name)
            .ok_or_else(|| history_error(format!("tensor `{name}` is missing")))?;
        if let Some(name) = tensors.keys().next() {
            return Err(history_error(format!("tensor `{name}` is not known here")));
        }
        let rows =
            tensor.to_vec2::<f32>().map_err(|e| history_error(format!("tensor `{name}`: {e}")))?;
        if rows.iter().any(|row| row.len() != HISTORY) {
            return Err(history_error(format!(
                "tensor `{name}` has shape {:?}; each row must be {HISTORY} wide",
                tensor.dims()
            )));
        }
        let kept = |row: Vec<f32>| row.into_iter().filter(|loss| !loss.is_nan()).collect();
        Ok(Self { losses: rows.into_iter().map(kept).collect() })
    }
}

fn history_error(problem: String) -> RestoreError {
    RestoreError::new(Some(CheckpointFile::LossHistory), problem)
}

/// The index at which the running sum of `probabilities` passes `share`, in [0, 1).
fn pick(probabilities: &[f64], share: f64) -> usize {
    let mut sum = 0.0;
    let passed = probabilities.iter().position(|probability| {
        sum += probability;
        share < sum
    });
    // Rounding may leave the whole sum a little below 1.
    passed.unwrap_or(probabilities.len() - 1)
}
