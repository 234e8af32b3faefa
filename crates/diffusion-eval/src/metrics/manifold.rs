//! Precision, recall, density and coverage: metrics from nearest neighbours.

use candle_core::Tensor;

use super::points::Points;
use crate::EvalError;

/// An estimate of where data lie: points, each with a closed ball that reaches to its k-th nearest
/// neighbour (Kynkäänniemi et al. 2019, equation 1). Equal points have balls of radius 0, which
/// contain each other.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use diffusion_eval::Manifold;
///
/// let real = Manifold::new(&Tensor::new(&[[0f32], [1.0], [2.0], [3.0]], &Device::Cpu)?, 1)?;
/// let generated =
///     Manifold::new(&Tensor::new(&[[0.5f32], [0.6], [9.0], [9.1]], &Device::Cpu)?, 1)?;
/// let agreement = real.agreement(&generated)?;
/// assert_eq!((agreement.precision, agreement.coverage), (0.5, 0.5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Manifold {
    points: Points,
    /// The squared radius of each ball.
    radii: Vec<f64>,
    neighbours: usize,
}

/// The agreement of real and generated points. All metrics but the density are shares in \[0, 1\].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// The share of generated points in the ball of any real point: the quality of the generated
    /// points (Kynkäänniemi et al. 2019).
    pub precision: f64,
    /// The share of real points in the ball of any generated point: how much of the data is reached
    /// (Kynkäänniemi et al. 2019).
    pub recall: f64,
    /// The mean number of real balls that contain a generated point, divided by k (Naeem et al.
    /// 2020). It is 1 for the data themselves, and larger for points in dense regions of the data.
    pub density: f64,
    /// The share of real points whose ball contains a generated point (Naeem et al. 2020). Unlike
    /// the recall, it cannot be raised by outliers among the generated points.
    pub coverage: f64,
}

impl Manifold {
    /// The manifold of `features` (N, D), with balls that reach to the `neighbours`-th nearest
    /// other point.
    ///
    /// # Errors
    /// If `features` does not have rank 2. If `neighbours` is 0 or not below N. If a feature is not
    /// finite.
    pub fn new(features: &Tensor, neighbours: usize) -> Result<Self, EvalError> {
        let (rows, _) = features.dims2()?;
        if neighbours == 0 || rows <= neighbours {
            return Err(EvalError::TooFewNeighbours { rows, neighbours });
        }
        let points = Points::new(features)?;
        let mut radii = Vec::with_capacity(rows);
        points.each_row_of_distances(&points, |_, distances| {
            let mut distances = distances.to_vec();
            // Index 0 is the point itself.
            let (_, radius, _) = distances.select_nth_unstable_by(neighbours, f64::total_cmp);
            radii.push(*radius);
        })?;
        Ok(Self { points, radii, neighbours })
    }

    /// The number of points.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// The agreement of these points, taken as real ones, with `generated` points.
    ///
    /// # Errors
    /// If the numbers of features differ.
    pub fn agreement(&self, generated: &Self) -> Result<Agreement, EvalError> {
        let (real_count, count) = (self.len() as f64, generated.len() as f64);
        let mut inside = vec![false; generated.len()];
        let (mut total, mut reached, mut covered) = (0usize, 0usize, 0usize);
        self.points.each_row_of_distances(&generated.points, |i, distances| {
            let mut any = false;
            for (inside, distance) in inside.iter_mut().zip(distances) {
                if *distance <= self.radii[i] {
                    *inside = true;
                    any = true;
                }
                // The k-th neighbour itself does not count, or a ball would hold k + 1 points.
                total += usize::from(*distance < self.radii[i] || *distance == 0.0);
            }
            covered += usize::from(any);
            reached +=
                usize::from(distances.iter().zip(&generated.radii).any(|(d, radius)| d <= radius));
        })?;
        Ok(Agreement {
            precision: inside.iter().filter(|inside| **inside).count() as f64 / count,
            recall: reached as f64 / real_count,
            density: total as f64 / (self.neighbours as f64 * count),
            coverage: covered as f64 / real_count,
        })
    }
}
