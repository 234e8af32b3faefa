//! How generated images are judged: beside which images, by which features, and from how many of each.

mod evaluator;
mod image_set;
mod notes;
mod reference;
mod report;
mod sample_metrics;
mod training;

pub use evaluator::{FeatureJudge, SampleEvaluator};
pub use image_set::ImageSet;
pub use notes::Note;
pub use reference::{ReferenceChoice, ReferenceSet};
pub use report::{MetricSpread, SampleReport};
pub use sample_metrics::{FeatureMetrics, SampleMetrics};
pub use training::TrainingSet;
