//! How good and how varied generated images are, by whose neighbours they are.

use candle_core::Tensor;

use super::points::Points;
use crate::EvalError;

/// Points and around each a ball that reaches to its k-th nearest neighbour: where the data lie, roughly.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use diffusion_eval::Manifold;
///
/// let real = Manifold::new(&Tensor::new(&[[0f32], [1.0], [2.0], [3.0]], &Device::Cpu)?, 1)?;
/// let generated = Manifold::new(&Tensor::new(&[[0.5f32], [0.6], [9.0], [9.1]], &Device::Cpu)?, 1)?;
/// let agreement = real.agreement(&generated)?;
/// assert_eq!((agreement.precision, agreement.coverage), (0.5, 0.5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Manifold {
    points: Points,
    /// The square of each ball's radius.
    radii: Vec<f64>,
    neighbours: usize,
}

/// What two sets of points say of each other; all are shares, in \[0, 1\], but for the density.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Generated points that lie in the ball of some real one: how many are good (Kynkäänniemi et al. 2019).
    pub precision: f64,
    /// Real points that lie in the ball of some generated one: how much of the data is reached (the same).
    pub recall: f64,
    /// In how many balls of real points a generated one lies, on average, by k: 1 for the data themselves,
    /// and above for what lies where they are dense (Naeem et al. 2020).
    pub density: f64,
    /// Real points in whose ball some generated one lies; unlike the recall, outliers among the generated
    /// cannot raise it (the same).
    pub coverage: f64,
}

impl Manifold {
    /// Of `features` (N, D), with balls that reach to the `neighbours`-th nearest of the other points.
    ///
    /// # Errors
    /// A tensor of another rank; no neighbours, or not as many points; a feature that is not finite.
    pub fn new(features: &Tensor, neighbours: usize) -> Result<Self, EvalError> {
        let (rows, _) = features.dims2()?;
        if neighbours == 0 || rows <= neighbours {
            return Err(EvalError::TooFewNeighbours { rows, neighbours });
        }
        let points = Points::new(features)?;
        let mut radii = Vec::with_capacity(rows);
        points.each_row_of_distances(&points, |_, distances| {
            let mut distances = distances.to_vec();
            // The nearest of all is the point itself.
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

    /// What these points, the real ones, and `generated` say of each other.
    ///
    /// # Errors
    /// Points of different features.
    pub fn agreement(&self, generated: &Self) -> Result<Agreement, EvalError> {
        let (real_count, count) = (self.len() as f64, generated.len() as f64);
        let mut inside = vec![0usize; generated.len()];
        let (mut reached, mut covered) = (0usize, 0usize);
        self.points.each_row_of_distances(&generated.points, |i, distances| {
            let mut any = false;
            for (inside, distance) in inside.iter_mut().zip(distances) {
                if *distance < self.radii[i] {
                    *inside += 1;
                    any = true;
                }
            }
            covered += usize::from(any);
            reached +=
                usize::from(distances.iter().zip(&generated.radii).any(|(d, radius)| d < radius));
        })?;
        let total: usize = inside.iter().sum();
        Ok(Agreement {
            precision: inside.iter().filter(|balls| **balls > 0).count() as f64 / count,
            recall: reached as f64 / real_count,
            density: total as f64 / (self.neighbours as f64 * count),
            coverage: covered as f64 / real_count,
        })
    }
}
