//! A training in the folder of a run: checkpoints, metrics, sample grids and evaluations.

mod adopt;
mod averages;
mod checkpoint;
mod run_dir;
mod samples;
mod training;
mod validation;

pub use adopt::AdoptedModel;
pub use averages::SavedAverages;
pub use run_dir::RunDir;
pub use samples::{SampleJudge, SampleMetricsFn, ema_model};
pub use training::{Checks, Outcome, Pace, TrainEvent, measure_pace, run};
pub use validation::ValidationSet;
