//! Whether predictors that know nothing err as theory says.

use super::{Predictor, PredictorErrors};
use crate::Estimate;

/// The error in ε of a baseline, beside the one that theory expects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BaselineCheck {
    /// The error that is expected at every level.
    pub expected: f64,
    /// The one over all levels.
    pub measured: Estimate,
    /// How far the error over all levels is from the expected one, in standard errors. `None`: the standard
    /// error is 0, or unknown as there is one image.
    pub deviation: Option<f64>,
    /// The same of the bin that is furthest from it.
    pub largest_deviation: Option<f64>,
    /// The largest difference from the expected error in a bin.
    pub largest_difference: f64,
}

impl BaselineCheck {
    /// Of the `errors` of a predictor that should err by `expected` in ε at every level, at least 0.
    pub fn new(errors: &PredictorErrors, expected: f64) -> Self {
        let deviation = |estimate: Estimate| {
            let deviation = (estimate.mean - expected).abs() / estimate.standard_error;
            deviation.is_finite().then_some(deviation)
        };
        let bins = || errors.bins.iter().map(|bin| bin.error.noise);
        Self {
            expected,
            measured: errors.overall.noise,
            deviation: deviation(errors.overall.noise),
            largest_deviation: bins().filter_map(deviation).max_by(f64::total_cmp),
            largest_difference: bins().map(|bin| (bin.mean - expected).abs()).fold(0.0, f64::max),
        }
    }

    /// Whether the error is the expected one in each bin, without any difference.
    pub fn is_exact(&self) -> bool {
        self.largest_difference == 0.0
    }
}

impl Predictor<'_> {
    /// The mean square of ε̂ − ε that theory expects at every level: the noise has variance 1, and other
    /// noise has it once more. `None` for a model.
    pub fn expected_error(&self) -> Option<f64> {
        match self {
            Self::Zero => Some(1.0),
            Self::Random => Some(2.0),
            Self::Perfect => Some(0.0),
            Self::Model(_) => None,
        }
    }
}
