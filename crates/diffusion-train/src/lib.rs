//! Training of diffusion, flow and EDM models: configuration, training step, and checkpoints.
//!
//! - [`TrainConfig`] is the recipe of a training: presets, TOML files and their validation.
//! - [`Trainer`] makes one update at a time with [`step`](Trainer::step): noise levels, loss,
//!   gradients, AdamW or Muon, and EMA.
//! - [`run`] drives a trainer and writes metrics, sample grids and checkpoints into a [`RunDir`].
//! - [`Checkpoint`] is the complete state of a training. Every random number is a function of the
//!   seed, the step and the position in the batch, so a resumed training equals an uninterrupted
//!   one bit for bit. The exception is a time limit, whose learning rate follows the clock.
//! - [`train_classifier`] trains a classifier of noisy images for classifier guidance, and
//!   [`train_judge`] one whose features compare images.
//!
//! This crate does not parse a command line, print or catch signals. It reports progress to a
//! callback, and the callback may stop the training.
//!
//! ```
//! use candle_core::Device;
//! use diffusion_data::ImageDataset;
//! use diffusion_train::TrainConfig;
//!
//! let digits = ImageDataset::new(vec![255; 16 * 64], None, [1, 8, 8])?;
//! let mut config = TrainConfig::preset("mnist")?;
//! config.batch_size = 4;
//! config.steps = Some(2);
//! let mut trainer = config.trainer(&digits, &Device::Cpu)?;
//! while !trainer.is_finished() {
//!     let metrics = trainer.step()?;
//!     println!("step {}: loss {:.3}", metrics.step, metrics.loss);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod classifier;
mod error;
mod recipe;
mod run;
mod start;
mod step;

pub use classifier::{
    ClassifierConfig, ClassifierStep, JudgeTraining, classifier_accuracy, judge_accuracy,
    train_classifier, train_judge,
};
pub use error::TrainError;
pub use recipe::{
    CheckpointConfig, Conditional, ConfigError, ConfigSource, DEFAULT_PRESET, LrDecay, LrSchedule,
    SampleGridConfig, TrainConfig, TrainingPrecision,
};
pub use run::{
    AdoptedModel, Checks, Outcome, Pace, RunDir, SampleJudge, SampleMetricsFn, SavedAverages,
    TrainEvent, ValidationSet, ema_model, measure_pace, run,
};
pub use start::start_from;
pub use step::{
    AdamW, AdamWConfig, Checkpoint, CheckpointFile, CheckpointState, DrawnLevels, Ema, EmaConfig,
    Gradients, LevelSampler, LossConfig, LossHistory, LossWeighting, PixelError, PowerProfile,
    RestoreError, ReverseStep, StepMetrics, TimestepSampling, Trainer, TrainingLoss, TrainingModel,
    VALIDATION_COPIES,
};
