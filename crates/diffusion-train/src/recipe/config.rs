//! The configuration of a training.

use std::path::PathBuf;

use diffusion_data::PictureConfig;
use diffusion_model::EdmConfig;
use diffusion_process::PredictionType;
use diffusion_sample::{SamplerKind, VarianceType};
use diffusion_schedule::ScheduleConfig;
use diffusion_unet::{NetworkConfig, SimpleUNetConfig};
use serde::{Deserialize, Serialize};

use super::{Conditional, LrSchedule, TrainingPrecision};
use crate::{AdamWConfig, EmaConfig, LossConfig, TimestepSampling};

/// The configuration of a training. Training ends when the first of `steps`, `epochs` and
/// `max_minutes` is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// The folder or file of the pictures. `None`: the default of the caller.
    pub data: Option<PathBuf>,
    /// The height and width, in pixels, to which pictures are resized. `None`: no resizing.
    pub size: Option<usize>,
    /// How pictures are resized, and which ones are used. The trainer applies `flip` and `repeat`;
    /// the caller applies the other fields when it prepares the data set.
    pub pictures: PictureConfig,
    /// The seed of weights, picture order, noise and timesteps. Default: 0.
    pub seed: u64,
    /// The number of updates, at least 1.
    pub steps: Option<u64>,
    /// The number of passes over the data, at least 1.
    pub epochs: Option<u64>,
    /// The training time in minutes, above 0, counted over all resumes. The learning rate then
    /// follows the clock, so two such runs differ. Use `steps` to repeat a run exactly.
    pub max_minutes: Option<f64>,
    /// Images per update. Default: 64.
    pub batch_size: usize,
    /// The number of parts in which a batch is computed to save memory; it must divide
    /// `batch_size`. Default: 1.
    pub accumulate: usize,
    /// The number of parts of a batch that are computed at the same time on the CPU, each on its
    /// share of the threads, at least 1; fewer if the batch has too few images. It determines the
    /// order in which gradients are summed, so another number rounds them differently. Each part
    /// has gradients of its own in memory. More parts than threads are slower. Default: 2; 1 in a
    /// saved configuration without this field.
    pub parallel_parts: usize,
    /// The number format in which the network multiplies. Default: f32.
    pub precision: TrainingPrecision,
    /// Whether residual blocks compute their hidden maps again in the backward pass instead of
    /// keeping them, which takes less memory and more time. Results are the same. Default: false.
    pub checkpoint_activations: bool,
    /// What the network predicts. `flow_prediction` trains a flow-matching model, which needs no
    /// schedule.
    pub prediction_type: PredictionType,
    /// Also learn the variance of the reverse steps, which doubles the network's output channels
    /// (Nichol & Dhariwal 2021). Default: false.
    pub learned_variance: bool,
    /// Whether the network is conditioned on classes. Default: never.
    pub conditional: Conditional,
    /// The probability, in [0, 1), of hiding a picture's class from the network. Default: 0.1. The
    /// network thus learns the unconditional prediction, which classifier-free guidance needs (Ho &
    /// Salimans 2022). Pictures without a label are always unconditional.
    pub class_dropout: f64,
    /// The scale of classifier-free guidance that sampling from the model uses by default, from
    /// -1000 to 1000. Default (`None`): 1.1. It does not affect the training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// How the noise levels of a batch are drawn. Default: uniform.
    pub timestep_sampling: TimestepSampling,
    /// Strength of the offset noise: this times one normal number per image and channel is added to
    /// the noise of every pixel. The network then learns to change the brightness of a whole image.
    /// Default: 0 (none).
    pub offset_noise: f64,
    /// The largest gradient norm. `None`: no clipping.
    pub clip_grad_norm: Option<f64>,
    /// The network. The image channels and size come from the data.
    pub network: NetworkConfig,
    /// The noise schedule of a diffusion model.
    pub schedule: ScheduleConfig,
    /// If set, trains an EDM model (Karras et al. 2022); `schedule` and `prediction_type` are then
    /// unused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edm: Option<EdmConfig>,
    /// The loss.
    pub loss: LossConfig,
    /// The optimiser, AdamW or Muon with AdamW.
    pub optimizer: AdamWConfig,
    /// The learning rate over the course of training.
    pub lr_schedule: LrSchedule,
    /// The moving average of the weights.
    pub ema: EmaConfig,
    /// When checkpoints are saved, and how many are kept.
    pub checkpoint: CheckpointConfig,
    /// Sample grids during training.
    pub sample_grid: SampleGridConfig,
}

/// When checkpoints are saved. The last step is always saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between checkpoints, at least 1. Default: 100.
    pub every: u64,
    /// The number of newest checkpoints to keep, at least 1. Default: 3.
    pub keep: usize,
    /// How many times the run saves averages of the weights, evenly over the training, from which
    /// moving averages of any length can be computed afterwards (Karras et al. 2024); at most 100.
    /// The averages cost memory for two copies of the weights. Default: 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub averages: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde needs
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 100, keep: 3, averages: 0 }
    }
}

/// Sample grids during training, all from the same initial noise, so that they show the same images
/// improve. The last step always writes one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleGridConfig {
    /// Steps between grids; 0: only at the end. Default: 100.
    pub every: u64,
    /// Images per grid, at most 4096; 0: no grids. Default: 16.
    pub num: u64,
    /// The sampler, by its name on the command line. `None`: the default of the `sample` command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerKind>,
    /// Sampling steps, at least 1; larger values than the schedule's length mean all its steps.
    /// `None`: the default of the `sample` command.
    pub steps: Option<usize>,
    /// The variance of a diffusion model's reverse steps, unless the network has learned it.
    pub variance: VarianceType,
    /// Clip the predicted image to its value range at each step. Default: true.
    pub clip_denoised: bool,
}

impl Default for SampleGridConfig {
    fn default() -> Self {
        Self {
            every: 100,
            num: 16,
            sampler: None,
            steps: None,
            variance: VarianceType::default(),
            clip_denoised: true,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            data: None,
            size: None,
            pictures: PictureConfig::default(),
            seed: 0,
            steps: None,
            epochs: None,
            max_minutes: None,
            batch_size: 64,
            accumulate: 1,
            parallel_parts: 2,
            precision: TrainingPrecision::default(),
            checkpoint_activations: false,
            prediction_type: PredictionType::default(),
            learned_variance: false,
            conditional: Conditional::default(),
            class_dropout: 0.1,
            guidance_scale: None,
            timestep_sampling: TimestepSampling::default(),
            offset_noise: 0.0,
            clip_grad_norm: None,
            network: NetworkConfig::SimpleUnet(SimpleUNetConfig {
                in_channels: 1,
                base_channels: 32,
                time_dim: 128,
                ..SimpleUNetConfig::default()
            }),
            schedule: ScheduleConfig::linear_scaled_to(200),
            edm: None,
            loss: LossConfig::default(),
            optimizer: AdamWConfig::default(),
            lr_schedule: LrSchedule::default(),
            ema: EmaConfig::default(),
            checkpoint: CheckpointConfig::default(),
            sample_grid: SampleGridConfig::default(),
        }
    }
}
