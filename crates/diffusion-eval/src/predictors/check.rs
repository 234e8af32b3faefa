//! Whether the errors of trivial baselines are as expected.

use super::{Predictor, PredictorErrors};
use crate::Estimate;

/// The measured error in ε of a baseline, compared with the expected one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BaselineCheck {
    /// The expected error at every level.
    pub expected: f64,
    /// The measured error over all levels.
    pub measured: Estimate,
    /// The difference of the measured and the expected error, in standard errors. `None` if the
    /// standard error is 0 or unknown (one image).
    pub deviation: Option<f64>,
    /// The largest difference in a bin, in its standard errors. `None` if no bin has a standard
    /// error.
    pub largest_deviation: Option<f64>,
    /// The largest difference from the expected error in a bin, as a value.
    pub largest_difference: f64,
}

impl BaselineCheck {
    /// Compares `errors` with the expected error. `expected` is the error in ε at every level, at
    /// least 0.
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

    /// Whether the error is exactly the expected one in each bin.
    pub fn is_exact(&self) -> bool {
        self.largest_difference == 0.0
    }
}

impl Predictor<'_> {
    /// The expected mean square of ε̂ − ε at every level: 1, 2 and 0 for the baselines, `None` for
    /// a model. The noise has variance 1, and independent noise adds 1.
    pub fn expected_error(&self) -> Option<f64> {
        match self {
            Self::Zero => Some(1.0),
            Self::Random => Some(2.0),
            Self::Perfect => Some(0.0),
            Self::Model(_) => None,
        }
    }
}
