//! Training: the loss, AdamW, EMA, learning rates, checkpoints and the trainer.
//!
//! [`Trainer`] is the mathematics, one [`step`](Trainer::step) at a time; [`run`] drives it over a [`RunDir`] and
//! writes metrics, sample grids and checkpoints there. Everything random follows from (seed, step), so a resumed
//! training equals an uninterrupted one bit for bit.
//!
//! This crate does not parse a command line, print, or catch signals: it calls back, and the callback may stop it.
//!
//! ```
//! use candle_core::Device;
//! use diffusion_data::ImageDataset;
//! use diffusion_train::{TrainConfig, Trainer};
//!
//! let digits = ImageDataset::new(vec![255; 16 * 64], None, [1, 8, 8])?;
//! let mut config = TrainConfig::preset("mnist")?;
//! config.batch_size = 4;
//! config.steps = Some(2);
//! let mut trainer = Trainer::new(&config, &digits, &Device::Cpu)?;
//! while !trainer.is_finished() {
//!     let metrics = trainer.step()?;
//!     println!("step {}: loss {:.3}", metrics.step, metrics.loss);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adopt;
mod bound;
mod checkpoint;
mod classes;
mod classifier;
mod config;
mod ema;
mod error;
mod generate;
mod gradients;
mod held_out;
mod loss;
mod lr;
mod metrics;
mod model;
mod objective;
mod optimizer;
mod run;
mod run_dir;
mod timesteps;
mod trainer;
mod validate;

pub use bound::{ReverseStep, discretized_log_likelihood, gaussian_kl};
pub use checkpoint::{Checkpoint, CheckpointState, FORMAT_VERSION};
pub use classes::{ClassChoice, Conditional, ModelClass, find_class};
pub use classifier::{ClassifierConfig, ClassifierDescription, ClassifierStep, LoadedClassifier};
pub use config::{CheckpointConfig, ConfigError, ConfigSource, SampleGridConfig, TrainConfig};
pub use ema::{Ema, EmaConfig};
pub use error::TrainError;
pub use generate::{Generation, Judge, SampleJudge};
pub use gradients::Gradients;
pub use loss::{LossConfig, LossWeighting, PixelError, TrainingLoss};
pub use lr::{LrDecay, LrSchedule};
pub use metrics::StepMetrics;
pub use model::{DATA_RANGE, LoadedModel, ModelDescription, Weights};
pub use objective::{EdmConfig, ModelDenoiser, NoisyBatch, Objective};
pub use optimizer::{AdamW, AdamWConfig};
pub use run::{Outcome, Pace, TrainEvent, rehearse, run};
pub use run_dir::RunDir;
pub use timesteps::{DrawnLevels, LevelSampler, LossHistory, TimestepSampling};
pub use trainer::Trainer;
