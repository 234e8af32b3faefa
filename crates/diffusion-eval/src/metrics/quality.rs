//! The quality of generated images compared with real ones.

use candle_core::Tensor;

use crate::{Agreement, EvalError, Manifold, Statistics};

/// The number of neighbours k for precision, recall, density and coverage.
const NEIGHBOURS: usize = 5;

/// The features of real images, to compare generated ones with.
#[derive(Clone, Debug)]
pub struct Reference {
    statistics: Statistics,
    manifold: Manifold,
}

/// The quality of generated images by their features.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleQuality {
    /// The number of generated images.
    pub count: usize,
    /// The Fréchet distance to the reference, from the features of all images.
    pub frechet_distance: f64,
    /// Precision, recall, density and coverage, from at most 3,000 of the images.
    pub agreement: Agreement,
}

impl Reference {
    /// The smallest number of images in a set, real or generated: each image needs 5 neighbours.
    pub const SMALLEST: usize = NEIGHBOURS + 1;
    /// The largest number of images of a set for precision, recall, density and coverage: the work
    /// grows with the square.
    pub const COMPARED: usize = 3000;

    /// The reference from the features (N, D) of real images; N must be at least 6.
    ///
    /// # Errors
    /// If there are fewer than 6 images. If a feature is not finite.
    pub fn of(features: &Tensor) -> Result<Self, EvalError> {
        Self::new(Statistics::of(features)?, features)
    }

    /// The reference from `statistics`, which may cover more images than the `features` (N, D).
    ///
    /// # Errors
    /// If `features` has fewer than 6 rows. If a feature is not finite.
    pub fn new(statistics: Statistics, features: &Tensor) -> Result<Self, EvalError> {
        let manifold = Manifold::new(&compared(features)?, NEIGHBOURS)?;
        Ok(Self { statistics, manifold })
    }

    /// The number of real images used for precision, recall, density and coverage.
    pub fn compared(&self) -> usize {
        self.manifold.len()
    }

    /// The number of features, D. With fewer images than that, the Fréchet distance is unreliable.
    pub fn features(&self) -> usize {
        self.statistics.width()
    }

    /// The quality of generated images with these `features` (N, D); N must be at least 6.
    ///
    /// # Errors
    /// If there are fewer than 6 images. If the number of features is not that of the reference. If
    /// a feature is not finite.
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

/// At most `most` rows of `tensor`, evenly spread over all rows, because sets may be sorted by
/// class.
///
/// # Errors
/// If `tensor` is a scalar. An error of the device.
pub fn spread(tensor: &Tensor, most: usize) -> candle_core::Result<Tensor> {
    let count = tensor.dim(0)?;
    if count <= most {
        return Ok(tensor.clone());
    }
    let chosen: Vec<u32> = (0..most).map(|i| (i * count / most) as u32).collect();
    tensor.index_select(&Tensor::new(chosen, tensor.device())?, 0)
}

/// The mean of `values` and their sample standard deviation (divided by n − 1), `None` for fewer
/// than 2 values.
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
