//! The noise levels of each batch, and their weights in the loss.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use diffusion_model::Objective;
use diffusion_process::NoiseLevel;
use diffusion_random::{Domain, NoiseSource};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::restore::{CheckpointFile, RestoreError};

/// How the noise levels of a batch are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSampling {
    /// Independently and uniformly.
    #[default]
    Uniform,
    /// Evenly spaced over the whole range, with one random offset per batch, so that the mean loss
    /// of a batch varies less (Kingma et al. 2021, appendix I.1).
    LowDiscrepancy,
    /// Timesteps with large losses more often, with smaller weights, so that the expected loss
    /// stays the same (Nichol & Dhariwal 2021, section 3.3).
    Importance,
}

/// The noise levels of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnLevels {
    /// One level per image.
    pub levels: Vec<NoiseLevel>,
    /// The weight of each image's loss, 1 in expectation. `None`: all weights are 1.
    pub weights: Option<Vec<f64>>,
}

impl DrawnLevels {
    /// The weighted mean of `losses`.
    pub fn mean(&self, losses: &[f32]) -> f64 {
        let weight = |i: usize| self.weights.as_ref().map_or(1.0, |weights| weights[i]);
        losses.iter().enumerate().map(|(i, &loss)| weight(i) * f64::from(loss)).sum::<f64>()
            / losses.len() as f64
    }

    /// `losses`, (n), times their weights; they are the losses of the images from index `first` on.
    ///
    /// # Errors
    /// An error of the device.
    pub(crate) fn weighted(&self, losses: &Tensor, first: usize) -> Result<Tensor> {
        match &self.weights {
            None => Ok(losses.clone()),
            Some(weights) => {
                let weights = weights[first..first + losses.dim(0)?].to_vec();
                losses * Tensor::new(weights, losses.device())?.to_dtype(losses.dtype())?
            }
        }
    }
}

/// Draws noise levels as a function of seed and step. Its only state is the loss history of
/// importance sampling.
#[derive(Clone, Debug)]
pub struct LevelSampler {
    sampling: TimestepSampling,
    history: Option<LossHistory>,
}

impl LevelSampler {
    /// A sampler without a history. Importance sampling needs the discrete timesteps of a diffusion
    /// model; for flows and EDM, levels are drawn uniformly instead.
    pub fn new(sampling: TimestepSampling, objective: &Objective) -> Self {
        let history = match (sampling, objective.schedule()) {
            (TimestepSampling::Importance, Some(schedule)) => {
                Some(LossHistory::new(schedule.len()))
            }
            _ => None,
        };
        Self { sampling, history }
    }

    /// Draws the levels of the `n` images of step `step`.
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
                    (0..n).map(|i| index_at(&probabilities, rng(i).random())).collect();
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

    /// Records the unweighted losses of images at `levels`.
    pub fn record(&mut self, levels: &[NoiseLevel], losses: &[f32]) {
        if let Some(history) = &mut self.history {
            for (level, &loss) in levels.iter().zip(losses) {
                history.push(level.timestep as usize, loss);
            }
        }
    }

    /// The loss history, if importance sampling uses one.
    pub fn history(&self) -> Option<&LossHistory> {
        self.history.as_ref()
    }

    /// Restores a saved history. On an error, the sampler is unchanged.
    ///
    /// # Errors
    /// If there is a history and the sampler needs none, or the reverse; if it has another number
    /// of timesteps.
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
                format!("it holds the losses of {found} timesteps, the run needs {expected}");
            return Err(history_error(problem));
        }
        self.history = history;
        Ok(())
    }
}

/// The number of losses kept per timestep.
const HISTORY_LEN: usize = 10;

/// The share of uniform draws in importance sampling, so that every timestep keeps being drawn.
const UNIFORM_SHARE: f64 = 0.001;

/// The last ten losses of each timestep, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct LossHistory {
    losses: Vec<Vec<f32>>,
}

impl LossHistory {
    /// The name of its tensor in a file.
    const TENSOR: &str = "loss_history";

    /// An empty history of `steps` timesteps.
    pub fn new(steps: usize) -> Self {
        Self { losses: vec![Vec::new(); steps] }
    }

    /// Adds a loss. A timestep outside the history is ignored.
    pub fn push(&mut self, timestep: usize, loss: f32) {
        if let Some(losses) = self.losses.get_mut(timestep) {
            if losses.len() == HISTORY_LEN {
                losses.remove(0);
            }
            losses.push(loss);
        }
    }

    /// The probability of each timestep: p_t ∝ √(mean of L_t²) (Nichol & Dhariwal 2021, eq. 18).
    ///
    /// 0.1 % of the draws are uniform. All draws are uniform until every timestep has ten losses.
    pub fn probabilities(&self) -> Vec<f64> {
        let steps = self.losses.len() as f64;
        let square = |loss: &f32| f64::from(*loss).powi(2);
        let root = |losses: &Vec<f32>| {
            (losses.iter().map(square).sum::<f64>() / HISTORY_LEN as f64).sqrt()
        };
        let roots: Vec<f64> = self.losses.iter().map(root).collect();
        let total: f64 = roots.iter().sum();
        if self.losses.iter().any(|losses| losses.len() < HISTORY_LEN)
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

    /// The tensor `loss_history`, (T, 10), f32; NaN means that there is no loss yet.
    ///
    /// # Errors
    /// If the tensor cannot be built, which does not happen in practice.
    pub fn to_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let padded = |losses: &Vec<f32>| {
            losses.iter().copied().chain(std::iter::repeat(f32::NAN)).take(HISTORY_LEN).collect()
        };
        let rows: Vec<Vec<f32>> = self.losses.iter().map(padded).collect();
        Ok(BTreeMap::from([(Self::TENSOR.to_owned(), Tensor::new(rows, &Device::Cpu)?)]))
    }

    /// Reads the history from the output of [`to_tensors`](Self::to_tensors).
    ///
    /// # Errors
    /// If the tensor is missing or has another width or type; if there is another tensor.
    pub fn from_tensors(
        mut tensors: BTreeMap<String, Tensor>,
    ) -> std::result::Result<Self, RestoreError> {
        let name = Self::TENSOR;
        let tensor = tensors
            .remove(name)
            .ok_or_else(|| history_error(format!("tensor `{name}` is missing")))?;
        if let Some(unknown) = tensors.keys().next() {
            return Err(history_error(format!(
                "unknown tensor `{unknown}`; expected only `{name}`"
            )));
        }
        let rows =
            tensor.to_vec2::<f32>().map_err(|e| history_error(format!("tensor `{name}`: {e}")))?;
        if rows.iter().any(|row| row.len() != HISTORY_LEN) {
            return Err(history_error(format!(
                "tensor `{name}` has shape {:?}; each row must have {HISTORY_LEN} entries",
                tensor.dims()
            )));
        }
        let without_padding =
            |row: Vec<f32>| row.into_iter().filter(|loss| !loss.is_nan()).collect();
        Ok(Self { losses: rows.into_iter().map(without_padding).collect() })
    }
}

fn history_error(problem: String) -> RestoreError {
    RestoreError::new(Some(CheckpointFile::LossHistory), problem)
}

/// The index at which the cumulative sum of `probabilities` exceeds `share`, in [0, 1).
fn index_at(probabilities: &[f64], share: f64) -> usize {
    let mut sum = 0.0;
    let index = probabilities.iter().position(|probability| {
        sum += probability;
        share < sum
    });
    // By rounding, the whole sum may be slightly below 1.
    index.unwrap_or(probabilities.len() - 1)
}
