//! What a set of generated images is worth beside real ones.

use candle_core::Tensor;

use crate::{Agreement, EvalError, Manifold, Statistics};

/// Neighbours that the balls of precision, recall, density and coverage reach to.
const NEIGHBOURS: usize = 5;

/// Real images, as a network of features sees them.
#[derive(Clone, Debug)]
pub struct Reference {
    statistics: Statistics,
    manifold: Manifold,
}

/// What is said of generated images.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleQuality {
    /// The images.
    pub count: usize,
    /// Between the Gaussians of the features of all images.
    pub frechet_distance: f64,
    /// How good and how varied 3,000 of them are.
    pub agreement: Agreement,
}

impl Reference {
    /// Images that a set must have at least, of real and of generated ones: each needs its neighbours.
    pub const SMALLEST: usize = NEIGHBOURS + 1;
    /// Images of a set that precision, recall, density and coverage are told from at most, since the work
    /// grows with the square.
    pub const COMPARED: usize = 3000;

    /// Of the features (N, D) of real images, at least 6.
    ///
    /// # Errors
    /// Fewer; a feature that is not finite.
    pub fn of(features: &Tensor) -> Result<Self, EvalError> {
        Self::new(Statistics::of(features)?, features)
    }

    /// Of statistics that were computed from more images than `features` (N, D) are there of.
    ///
    /// # Errors
    /// Features of another number than the statistics', fewer than 6, or that are not finite.
    pub fn new(statistics: Statistics, features: &Tensor) -> Result<Self, EvalError> {
        let manifold = Manifold::new(&compared(features)?, NEIGHBOURS)?;
        Ok(Self { statistics, manifold })
    }

    /// Real images that precision, recall, density and coverage are told from.
    pub fn compared(&self) -> usize {
        self.manifold.len()
    }

    /// D, the number of features. From fewer images than that, the distance says little.
    pub fn features(&self) -> usize {
        self.statistics.width()
    }

    /// What generated images with these `features` (N, D) are worth; N at least 6.
    ///
    /// # Errors
    /// Fewer; other features than the reference's; a feature that is not finite.
    pub fn quality(&self, features: &Tensor) -> Result<SampleQuality, EvalError> {
        Ok(SampleQuality {
            count: features.dim(0)?,
            frechet_distance: self.statistics.frechet_distance(&Statistics::of(features)?)?,
            agreement: self
                .manifold
                .agreement(&Manifold::new(&compared(features)?, NEIGHBOURS)?)?,
        })
    }
}

fn compared(features: &Tensor) -> candle_core::Result<Tensor> {
    spread(features, Reference::COMPARED)
}

/// At most `most` of the rows of `tensor`, evenly spread over all: sets may be sorted by class.
///
/// # Errors
/// A scalar; those of the device.
pub fn spread(tensor: &Tensor, most: usize) -> candle_core::Result<Tensor> {
    let count = tensor.dim(0)?;
    if count <= most {
        return Ok(tensor.clone());
    }
    let chosen: Vec<u32> = (0..most).map(|i| (i * count / most) as u32).collect();
    tensor.index_select(&Tensor::new(chosen, tensor.device())?, 0)
}

/// The mean of `values` and the standard deviation that they let one guess (over n - 1); none from a single
/// value.
///
/// The mean of no values is NaN.
pub fn mean_and_deviation(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.len() > 1).then(|| {
        (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
    });
    (mean, deviation)
}
