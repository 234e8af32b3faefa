//! Training: the loss, AdamW, EMA, learning rates, checkpoints and the trainer.
//!
//! A [`TrainConfig`] is the recipe (folder `recipe`); [`Trainer`] is the mathematics, one [`step`](Trainer::step) at a time
//! (folder `step`); [`run`] drives it over a [`RunDir`] and writes metrics, sample grids and checkpoints there (folder `run`).
//! Everything random follows from (seed, step), so a resumed training equals an uninterrupted one bit for bit.
//!
//! This crate does not parse a command line, print, or catch signals: it calls back, and the callback may stop it.
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

pub use classifier::{ClassifierConfig, ClassifierStep, classifier_accuracy, train_classifier};
pub use error::TrainError;
pub use recipe::{
    CheckpointConfig, Conditional, ConfigError, ConfigSource, DEFAULT_PRESET, LrDecay, LrSchedule,
    SampleGridConfig, TrainConfig,
};
pub use run::{
    Checks, HeldOut, Judge, Outcome, Pace, RunDir, SampleJudge, TrainEvent, averaged_model,
    rehearse, run,
};
pub use start::start_from;
pub use step::{
    AdamW, AdamWConfig, Checkpoint, CheckpointFile, CheckpointState, DrawnLevels, Ema, EmaConfig,
    Gradients, LevelSampler, LossConfig, LossHistory, LossWeighting, PixelError, RestoreError,
    ReverseStep, StepMetrics, TimestepSampling, Trainer, TrainingLoss, TrainingModel,
};
