//! Metrics of sets of images and of features.

mod classes;
mod diversity;
mod frechet;
mod manifold;
mod memorisation;
mod points;
mod quality;

pub use classes::ClassShares;
pub use diversity::diversity;
pub use frechet::Statistics;
pub use manifold::{Agreement, Manifold};
pub use memorisation::{Memorisation, TrainingImages};
pub use quality::{Reference, SampleQuality, mean_and_deviation, spread};
