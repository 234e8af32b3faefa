//! The configuration of a training: presets, files, validation, hash, and the model it describes.
//! Nothing here computes with tensors or uses the folder of a run.

mod config;
mod description;
mod error;
mod hash;
mod layers;
mod lr;
mod precision;
mod validate;

pub use config::{CheckpointConfig, SampleGridConfig, TrainConfig};
pub use description::Conditional;
pub(crate) use description::{classes_of, conditional, network_alone};
pub use error::ConfigError;
pub use layers::{ConfigSource, DEFAULT_PRESET};
pub use lr::{LrDecay, LrSchedule};
pub use precision::TrainingPrecision;
