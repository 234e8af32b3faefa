//! How far an output is from its target, and how much that counts at each noise level.

use candle_core::{Result, Tensor};
use diffusion_model::{NoisyBatch, Objective};
use diffusion_process::{NoiseLevel, PredictionType};
use serde::{Deserialize, Serialize};

use super::bound::ReverseStep;

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// The measure of a pixel's error.
    pub error: PixelError,
    /// What an image's error counts.
    pub weighting: LossWeighting,
}

/// A measure of the difference between output and target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PixelError {
    /// d².
    #[default]
    Mse,
    /// |d|.
    L1,
    /// d²/2 up to `delta`, and from there on the straight line δ·(|d| − δ/2) (Huber 1964).
    Huber {
        /// Above 0.
        delta: f64,
    },
}

impl PixelError {
    /// The mean over each image's pixels (N); `output` and `target` are (N, C, H, W).
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn per_image(self, output: &Tensor, target: &Tensor) -> Result<Tensor> {
        let difference = (output - target)?;
        let error = match self {
            Self::Mse => difference.sqr()?,
            Self::L1 => difference.abs()?,
            Self::Huber { delta } => {
                let size = difference.abs()?;
                // With c = min(|d|, δ), both branches are c·|d| − c²/2.
                let curved = size.minimum(delta)?;
                ((&curved * &size)? - (curved.sqr()? * 0.5)?)?
            }
        };
        error.mean((1, 2, 3))
    }
}

/// What an error counts by its level's signal-to-noise ratio SNR = ᾱ/(1 − ᾱ).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LossWeighting {
    /// The same at every level, for the prediction as it is.
    #[default]
    None,
    /// min(SNR, γ) for the error of x₀ (Hang et al. 2023, section 3.4).
    MinSnr {
        /// Above 0; the paper's is 5.
        gamma: f64,
    },
    /// 1/(k + SNR)^γ for the error of ε (Choi et al. 2022, eq. 8).
    P2 {
        /// Above 0; the paper's is 1.
        k: f64,
        /// Above 0; the paper's is 1 or ½.
        gamma: f64,
    },
}

impl LossWeighting {
    /// The weight of the squared error of what is predicted. Errors of ε are those of x₀ times SNR, errors of v those of x₀
    /// times SNR + 1. A flow, which has no schedule, gets 1.
    pub fn weight(self, prediction_type: PredictionType, snr: f64) -> f64 {
        match (self, prediction_type) {
            (Self::None, _) | (_, PredictionType::Flow) => 1.0,
            (Self::MinSnr { gamma }, PredictionType::Sample) => snr.min(gamma),
            // min(SNR, γ)/SNR, with its limit 1 where SNR is 0.
            (Self::MinSnr { gamma }, PredictionType::Epsilon) => (gamma / snr).min(1.0),
            (Self::MinSnr { gamma }, PredictionType::VPrediction) => snr.min(gamma) / (snr + 1.0),
            (Self::P2 { k, gamma }, of) => {
                let for_epsilon = (k + snr).powf(-gamma);
                match of {
                    PredictionType::Sample => for_epsilon * snr,
                    PredictionType::VPrediction => for_epsilon * snr / (snr + 1.0),
                    PredictionType::Epsilon | PredictionType::Flow => for_epsilon,
                }
            }
        }
    }
}

/// All that makes a number of a network's output.
#[derive(Clone, Debug)]
pub struct TrainingLoss {
    /// The process.
    pub objective: Objective,
    /// Error and weighting.
    pub config: LossConfig,
    /// Whether the output has a second half that is a variance. It adds T/1000 times the bound's term in bits a dimension,
    /// which is 0.001·L_vlb in expectation (Nichol & Dhariwal 2021, eq. 16).
    pub learned_variance: bool,
}

impl TrainingLoss {
    /// The loss of each image (N), where the network said `output`, (N, C, H, W) or with twice as many channels, of the
    /// images of `batch`.
    ///
    /// # Errors
    /// An output of another shape.
    pub fn per_image(&self, output: &Tensor, batch: &NoisyBatch) -> Result<Tensor> {
        let channels = batch.target.dim(1)?;
        match &self.objective {
            Objective::Diffusion { schedule, prediction_type } if self.learned_variance => {
                let (mean, variance) =
                    (output.narrow(1, 0, channels)?, output.narrow(1, channels, channels)?);
                let step = ReverseStep {
                    schedule,
                    prediction_type: *prediction_type,
                    output: &mean,
                    variance: &variance,
                };
                let bits = step.bits(&batch.x0, &batch.x_t, &batch.levels)?;
                self.simple(&mean, batch)? + (bits * (schedule.len() as f64 / 1000.0))?
            }
            _ => self.simple(output, batch),
        }
    }

    fn simple(&self, output: &Tensor, batch: &NoisyBatch) -> Result<Tensor> {
        let error = self.config.error.per_image(output, &batch.target)?;
        match &self.objective {
            Objective::Diffusion { schedule, prediction_type }
                if self.config.weighting != LossWeighting::None =>
            {
                let weight = |level: &NoiseLevel| {
                    let snr = schedule.snr(level.timestep as usize);
                    self.config.weighting.weight(*prediction_type, snr)
                };
                let weights: Vec<f64> = batch.levels.iter().map(weight).collect();
                error * Tensor::new(weights, output.device())?.to_dtype(output.dtype())?
            }
            _ => Ok(error),
        }
    }
}
