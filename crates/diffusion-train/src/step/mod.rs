//! One step of training: noise levels, loss, gradients, optimiser and moving average.
//! Nothing here reads or writes files.

mod bound;
mod ema;
mod gradients;
mod guard;
mod loss;
mod metrics;
mod optimizer;
mod power_ema;
mod restore;
mod state;
mod timesteps;
mod trainer;

pub use bound::ReverseStep;
pub use ema::{Ema, EmaConfig};
pub use gradients::Gradients;
pub use loss::{LossConfig, LossWeighting, PixelError, TrainingLoss};
pub use metrics::{StepMetrics, VALIDATION_COPIES};
pub use optimizer::{AdamW, AdamWConfig};
pub use power_ema::PowerProfile;
pub use restore::{CheckpointFile, RestoreError};
pub use state::{Checkpoint, CheckpointState};
pub use timesteps::{DrawnLevels, LevelSampler, LossHistory, TimestepSampling};
pub use trainer::{Trainer, TrainingModel};
