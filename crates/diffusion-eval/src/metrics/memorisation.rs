//! Whether generated images are new or copies of training images.

use candle_core::Tensor;

use super::points::Points;
use super::quality::spread;
use crate::EvalError;

/// An image is a copy if the distance to its nearest training image is below this share of the
/// distance to the second nearest (Yoon et al. 2023, "Diffusion probabilistic models generalize
/// when they fail to memorize").
const COPY_SHARE: f64 = 1.0 / 3.0;
/// An image is a copy, whatever its second nearest, if the distance to its nearest training image
/// is below this share of the mean distance between nearest training images.
const SAME_SHARE: f64 = 0.05;
/// The number of training images whose nearest other training image is searched for.
const TRAINING_QUERIES: usize = 1000;

/// The nearest of a set of points.
struct Neighbour {
    /// The Euclidean distance to it.
    distance: f64,
    /// The distance to the second nearest; infinite if there is none.
    second: f64,
}

/// The nearest of `among` to each query. `points` has `views` consecutive rows for each query; the
/// distance is that of the nearest view.
fn nearest(points: &Points, views: usize, among: &Points) -> Result<Vec<Neighbour>, EvalError> {
    let mut found = Vec::with_capacity(points.len() / views);
    let mut nearest_view = vec![f64::INFINITY; among.len()];
    points.each_row_of_distances(among, |i, squares| {
        for (nearest, &square) in nearest_view.iter_mut().zip(squares) {
            *nearest = nearest.min(square);
        }
        if (i + 1) % views > 0 {
            return;
        }
        let mut best = Neighbour { distance: f64::INFINITY, second: f64::INFINITY };
        for square in &mut nearest_view {
            let square = std::mem::replace(square, f64::INFINITY);
            if square < best.distance {
                best = Neighbour { distance: square, second: best.distance };
            } else if square < best.second {
                best.second = square;
            }
        }
        found.push(Neighbour { distance: best.distance.sqrt(), second: best.second.sqrt() });
    })?;
    Ok(found)
}

/// How near generated images are to training images, by Euclidean distance of pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memorisation {
    /// The share of copies, in \[0, 1\]. A copy is less than a third as far from its nearest
    /// training image as from the second nearest.
    pub copies: f64,
    /// The mean distance to the nearest training image.
    pub nearest: f64,
    /// The mean distance of a training image to the nearest other one. For memorised images,
    /// `nearest` is far below it.
    pub training_nearest: f64,
}

/// Training images, to search for copies of them.
#[derive(Clone, Debug)]
pub struct TrainingImages {
    points: Points,
    mirrored: bool,
    /// The mean distance of a training image to the nearest other one.
    nearest: f64,
}

impl TrainingImages {
    /// The images `training` (M, C, H, W); M must be at least 2. If `mirrored` is set, copies of
    /// mirror images are found as well: use it if training mirrored the images.
    ///
    /// # Errors
    /// If there are fewer than 2 images. If a pixel is not finite.
    pub fn new(training: &Tensor, mirrored: bool) -> Result<Self, EvalError> {
        let count = training.dim(0)?;
        if count < 2 {
            return Err(EvalError::TooFew(count));
        }
        let mut new = Self { points: Points::new(training)?, mirrored, nearest: f64::NAN };
        // The nearest is the image itself.
        let neighbours = new.nearest(&spread(training, TRAINING_QUERIES)?)?;
        new.nearest =
            neighbours.iter().map(|found| found.second).sum::<f64>() / neighbours.len() as f64;
        Ok(new)
    }

    /// Whether copies of mirror images are found as well.
    pub fn mirrored(&self) -> bool {
        self.mirrored
    }

    /// The nearest training image of each of `images`.
    fn nearest(&self, images: &Tensor) -> Result<Vec<Neighbour>, EvalError> {
        if !self.mirrored {
            return nearest(&Points::new(images)?, 1, &self.points);
        }
        let views = Tensor::stack(&[images, &images.flip(&[3])?], 1)?;
        nearest(&Points::new(&views.flatten(0, 1)?)?, 2, &self.points)
    }

    /// How near generated `images` (N, C, H, W) are to the training images; N must be at least 1.
    /// The work grows with N·M: a few thousand of each are enough.
    ///
    /// # Errors
    /// If there are no images, or they differ in size from the training images. If a pixel is not
    /// finite.
    pub fn memorisation(&self, images: &Tensor) -> Result<Memorisation, EvalError> {
        let count = images.dim(0)?;
        if count == 0 {
            return Err(EvalError::TooFew(count));
        }
        let found = self.nearest(images)?;
        // If a training image exists twice, its copy is as far from both: the ratio alone misses
        // it.
        let same = SAME_SHARE * self.nearest;
        let copies = found
            .iter()
            .filter(|found| found.distance < (COPY_SHARE * found.second).max(same))
            .count();
        Ok(Memorisation {
            copies: copies as f64 / count as f64,
            nearest: found.iter().map(|found| found.distance).sum::<f64>() / count as f64,
            training_nearest: self.nearest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn points(rows: &[[f32; 2]]) -> Points {
        Points::new(
            &Tensor::from_slice(rows.as_flattened(), (rows.len(), 2), &Device::Cpu).unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn the_nearest_comes_with_the_second_nearest() {
        let among = points(&[[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]]);
        let found = nearest(&points(&[[0.0, 0.0], [6.0, 8.0]]), 1, &among).unwrap();
        assert_eq!((found[0].distance, found[0].second), (1.0, 5.0));
        assert_eq!((found[1].distance, found[1].second), (0.0, 5.0));
        let alone = &nearest(&points(&[[0.0, 0.0]]), 1, &points(&[[3.0, 4.0]])).unwrap()[0];
        assert_eq!((alone.distance, alone.second), (5.0, f64::INFINITY));
    }

    #[test]
    fn the_nearest_of_several_views_counts() {
        let found =
            nearest(&points(&[[9.0, 9.0], [3.0, 4.0]]), 2, &points(&[[0.0, 0.0], [9.0, 8.0]]))
                .unwrap();
        assert_eq!((found.len(), found[0].distance, found[0].second), (1, 1.0, 5.0));
    }
}
