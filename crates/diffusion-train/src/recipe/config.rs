//! What a training is, as data.

use std::path::PathBuf;

use diffusion_data::PictureConfig;
use diffusion_model::EdmConfig;
use diffusion_process::PredictionType;
use diffusion_sample::{SamplerKind, VarianceType};
use diffusion_schedule::ScheduleConfig;
use diffusion_unet::{NetworkConfig, SimpleUNetConfig};
use serde::{Deserialize, Serialize};

use super::{Conditional, LrSchedule};
use crate::{AdamWConfig, EmaConfig, LossConfig, TimestepSampling};

/// A whole training. Training ends at the first of `steps`, `epochs` and `max_minutes` that is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// The folder or file of the pictures; none: whatever the caller takes for its default.
    pub data: Option<PathBuf>,
    /// Bring the pictures to this height and width; none: leave them as they are.
    pub size: Option<usize>,
    /// How pictures are brought to that size, and which of them are taken. What does not concern the loader (`flip` and
    /// `repeat`) is done by whoever prepares the data set.
    pub pictures: PictureConfig,
    /// The seed of weights, order, noise and timesteps.
    pub seed: u64,
    /// Updates to make, at least 1.
    pub steps: Option<u64>,
    /// Passes over the data, at least 1.
    pub epochs: Option<u64>,
    /// Minutes to train for, above 0; a resumed training counts the minutes that it had. The learning rate then follows
    /// the clock, so two such runs differ; give `steps` to repeat a run exactly.
    pub max_minutes: Option<f64>,
    /// Images in an update.
    pub batch_size: usize,
    /// Parts in which a batch is computed to save memory; must divide `batch_size`.
    pub accumulate: usize,
    /// What the network learns to say. `flow_prediction` makes the model one of flow matching, which needs no schedule.
    pub prediction_type: PredictionType,
    /// Have the network learn the variance of the reverse steps too: its output gets twice the channels (Nichol & Dhariwal
    /// 2021).
    pub learned_variance: bool,
    /// Whether the network is told each picture's class.
    pub conditional: Conditional,
    /// The share of pictures whose class it is not told, in [0, 1), so that it knows pictures of no class in particular too, as
    /// classifier-free guidance needs (Ho & Salimans 2022). Pictures without a label are never told one.
    pub class_dropout: f64,
    /// How the noise levels of a batch are drawn.
    pub timestep_sampling: TimestepSampling,
    /// Adds this times a normal number, one for each image and channel, to the noise of every pixel, so that the network
    /// learns to change the brightness of a whole image; 0: none.
    pub offset_noise: f64,
    /// The largest norm of the gradient; none: no clipping.
    pub clip_grad_norm: Option<f64>,
    /// The network. Its channels and the size of the images come from the data.
    pub network: NetworkConfig,
    /// The forward process of a diffusion.
    pub schedule: ScheduleConfig,
    /// Given, the model is one of Karras et al. 2022: neither `schedule` nor `prediction_type` is used then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edm: Option<EdmConfig>,
    /// What is minimised.
    pub loss: LossConfig,
    /// AdamW.
    pub optimizer: AdamWConfig,
    /// The learning rate over time.
    pub lr_schedule: LrSchedule,
    /// The moving average of the weights.
    pub ema: EmaConfig,
    /// What is saved, and when.
    pub checkpoint: CheckpointConfig,
    /// Pictures on the way.
    pub sample_grid: SampleGridConfig,
}

/// When to save. The last step is always saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between checkpoints, at least 1.
    pub every: u64,
    /// Checkpoints to keep, the newest; at least 1.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 100, keep: 3 }
    }
}

/// Grids of samples from the same noise, so that one sees the same images form. The last step always gives one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleGridConfig {
    /// Steps between grids; 0: only at the end.
    pub every: u64,
    /// Images in a grid; 0: no grids.
    pub num: u64,
    /// The sampler, by its name on the command line; none: the one that `sample` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerKind>,
    /// Sampling steps, at least 1; more than the schedule has: all of its steps; none: as many as `sample` takes.
    pub steps: Option<usize>,
    /// The variance of a diffusion's reverse steps, where the network does not learn its own.
    pub variance: VarianceType,
    /// Cut the predicted image to its range at each step.
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
            prediction_type: PredictionType::default(),
            learned_variance: false,
            conditional: Conditional::default(),
            class_dropout: 0.1,
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
