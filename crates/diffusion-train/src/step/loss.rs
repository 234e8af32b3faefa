//! The training loss: the error of the prediction, and its weight at each noise level.

use candle_core::{Result, Tensor};
use diffusion_model::{NoisyBatch, Objective};
use diffusion_process::{NoiseLevel, PredictionType};
use serde::{Deserialize, Serialize};

use super::bound::ReverseStep;

/// The configuration of the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// The error of a pixel. Default: squared error.
    pub error: PixelError,
    /// The weight of an image's error by noise level. Default: none.
    pub weighting: LossWeighting,
}

/// The error of a pixel as a function of d, the difference between output and target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PixelError {
    /// The squared error, d².
    #[default]
    Mse,
    /// The absolute error, |d|.
    L1,
    /// The Huber loss: d²/2 for |d| ≤ δ, and δ·(|d| − δ/2) above (Huber 1964).
    Huber {
        /// The threshold δ, above 0.
        delta: f64,
    },
}

impl PixelError {
    /// The mean error of each image, (N). `output` and `target` are (N, C, H, W).
    ///
    /// # Errors
    /// If the shapes differ.
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

/// The weight of an error as a function of the signal-to-noise ratio, SNR = ᾱ/(1 − ᾱ).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LossWeighting {
    /// Weight 1 at every level, for the error of the predicted quantity.
    #[default]
    None,
    /// min(SNR, γ) for the error of x₀ (Hang et al. 2023, section 3.4).
    MinSnr {
        /// The bound γ, above 0; 5 in the paper.
        gamma: f64,
    },
    /// 1/(k + SNR)^γ for the error of ε (Choi et al. 2022, eq. 8).
    P2 {
        /// The constant k, above 0; 1 in the paper.
        k: f64,
        /// The exponent γ, above 0; 1 or ½ in the paper.
        gamma: f64,
    },
}

impl LossWeighting {
    /// The weight of the squared error of the predicted quantity.
    ///
    /// The squared error of ε is that of x₀ times SNR; the squared error of v is that of x₀ times
    /// SNR + 1. For flows, which have no schedule, the weight is 1.
    pub fn weight(self, prediction_type: PredictionType, snr: f64) -> f64 {
        match (self, prediction_type) {
            (Self::None, _) | (_, PredictionType::Flow) => 1.0,
            (Self::MinSnr { gamma }, PredictionType::Sample) => snr.min(gamma),
            // min(SNR, γ)/SNR, whose limit is 1 as SNR approaches 0.
            (Self::MinSnr { gamma }, PredictionType::Epsilon) => (gamma / snr).min(1.0),
            (Self::MinSnr { gamma }, PredictionType::VPrediction) => snr.min(gamma) / (snr + 1.0),
            (Self::P2 { k, gamma }, predicted) => {
                let for_epsilon = (k + snr).powf(-gamma);
                match predicted {
                    PredictionType::Sample => for_epsilon * snr,
                    PredictionType::VPrediction => for_epsilon * snr / (snr + 1.0),
                    PredictionType::Epsilon | PredictionType::Flow => for_epsilon,
                }
            }
        }
    }
}

/// The complete loss of a training.
#[derive(Clone, Debug)]
pub struct TrainingLoss {
    /// The training objective: diffusion, flow or EDM.
    pub objective: Objective,
    /// The pixel error and the weighting.
    pub config: LossConfig,
    /// Whether the second half of the output is a variance. If so, the loss includes T/1000 times
    /// the bound's term in bits per dimension, which is 0.001·L_vlb in expectation (Nichol &
    /// Dhariwal 2021, eq. 16).
    pub learned_variance: bool,
}

impl TrainingLoss {
    /// The loss of each image, (N), for the network's `output` on `batch`.
    ///
    /// `output` is (N, C, H, W), or (N, 2C, H, W) with a learned variance.
    ///
    /// # Errors
    /// If the output has another shape.
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
