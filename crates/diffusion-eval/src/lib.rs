//! Quality metrics for generated images and for diffusion models.
//!
//! - [`Statistics`] describes a set of features as a Gaussian. [`Statistics::frechet_distance`] is
//!   the Fréchet distance between two of them. With features of [`Inception`] it is the FID (Heusel
//!   et al. 2017).
//! - [`Manifold`] measures precision, recall, density and coverage.
//! - [`SampleEvaluator`] computes all metrics of generated images from reference images and
//!   training images. [`ReferenceChoice`] selects the reference images. [`SampleReport`] combines
//!   several sets of images.
//! - [`PredictorEvaluation`] measures the noise-prediction error of a model or a trivial baseline
//!   by timestep.
//! - [`ModelEvaluation`] measures the losses of a model by noise level and its
//!   [`VariationalBound`], in bits per dimension.
//! - [`Judge`] and [`Inception`] are the networks that compute features. A judge of digits is
//!   included; other judges and the weights of Inception are read from files.
//!
//! This crate does not generate images, train models or download weights. Images are tensors or an
//! [`ImageSet`]. All sums are computed in f64.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use diffusion_eval::Statistics;
//!
//! let features = Tensor::new(&[[0f32, 0.0], [2.0, 1.0], [1.0, 4.0]], &Device::Cpu)?;
//! // The same points, moved by 3 in each of the 2 features: the distance is 3² + 3².
//! let moved = features.affine(1.0, 3.0)?;
//! let distance = Statistics::of(&features)?.frechet_distance(&Statistics::of(&moved)?)?;
//! assert!((distance - 18.0).abs() < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod features;
mod inception;
mod judge;
mod likelihood;
mod metrics;
mod model;
mod noisy;
mod predictors;
mod samples;

pub use error::EvalError;
pub use features::FeatureExtractor;
pub use inception::Inception;
pub use judge::{
    Judge, JudgeDescription, JudgeNetwork, JudgeNetworkConfig, JudgeOutput, JudgeTask, judge_id,
};
pub use likelihood::VariationalBound;
pub use metrics::{
    Agreement, ClassShares, Manifold, Memorisation, Reference, SampleQuality, Statistics,
    TrainingImages, diversity, mean_and_deviation, spread,
};
pub use model::{Bound, ModelBin, ModelErrors, ModelEvaluation, ModelLoss};
pub use predictors::{
    BaselineCheck, ErrorBin, Estimate, PredictionError, Predictor, PredictorErrors,
    PredictorEvaluation, tutorial_images,
};
pub use samples::{
    FeatureJudge, FeatureMetrics, ImageSet, MetricSpread, Note, ReferenceChoice, ReferenceSet,
    SampleEvaluator, SampleMetrics, SampleReport, TrainingSet,
};
