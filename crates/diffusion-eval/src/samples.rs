//! The evaluation of generated images: which reference images, which features and how many images.

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
