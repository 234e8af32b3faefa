//! A training in the folder of a run: checkpoints, metrics, grids of samples, and what is checked on the way.

mod adopt;
mod checkpoint;
mod held_out;
mod run_dir;
mod samples;
mod training;

pub use held_out::HeldOut;
pub use run_dir::RunDir;
pub use samples::{Judge, SampleJudge, averaged_model};
pub use training::{Checks, Outcome, Pace, TrainEvent, rehearse, run};
