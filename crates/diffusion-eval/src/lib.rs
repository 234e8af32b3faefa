//! How near generated images are to real ones, and predictions to the noise.
//!
//! [`Statistics`] sums a set of features up as a Gaussian, and [`Statistics::frechet_distance`] is the
//! distance of two. What the features are is the caller's business: with those of [`Inception`] the distance
//! is FID (Heusel et al. 2017).
//!
//! [`Manifold`] tells how good images are from how varied they are: precision and recall, density and
//! coverage.
//!
//! [`SampleEvaluator`] judges sets of generated images beside reference images and training images;
//! [`ReferenceChoice`] says which those are, and [`SampleReport`] sums several sets up.
//!
//! [`PredictorEvaluation`] asks what a model, or one that knows nothing, makes of noisy images at each
//! timestep. [`ModelEvaluation`] gives the losses of a trained one by level, and the [`VariationalBound`] on
//! its likelihood in bits a dimension.
//!
//! This crate adds up in f64. It knows two networks that make features: [`DigitJudge`], whose weights it
//! holds, and [`Inception`], whose weights are the only file that it reads; it downloads none. Images come to
//! it as tensors or as an [`ImageSet`].
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use diffusion_eval::Statistics;
//!
//! let features = Tensor::new(&[[0f32, 0.0], [2.0, 1.0], [1.0, 4.0]], &Device::Cpu)?;
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
pub use features::{FeatureExtractor, FeatureNetwork};
pub use inception::Inception;
pub use judge::{DigitJudge, Verdict};
pub use likelihood::VariationalBound;
pub use metrics::{
    Agreement, ClassShares, Manifold, Memorisation, Reference, SampleQuality, Statistics,
    TrainingImages, diversity, mean_and_deviation, spread,
};
pub use model::{Bound, ModelBin, ModelErrors, ModelEvaluation, ModelLoss};
pub use predictors::{
    BaselineCheck, ErrorBin, Estimate, PredictionError, Predictor, PredictorErrors,
    PredictorEvaluation, lesson_images,
};
pub use samples::{
    FeatureJudge, FeatureMetrics, ImageSet, MetricSpread, Note, ReferenceChoice, ReferenceSet,
    SampleEvaluator, SampleMetrics, SampleReport, TrainingSet,
};
