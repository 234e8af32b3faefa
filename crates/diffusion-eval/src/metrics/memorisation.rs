//! Whether generated images are new, or those of training once more.

use candle_core::Tensor;

use super::points::Points;
use super::quality::spread;
use crate::EvalError;

/// An image is a copy if its nearest training image is at less than this share of the distance of the second
/// nearest (Yoon et al. 2023, "Diffusion probabilistic models generalize when they fail to memorize").
const COPY: f64 = 1.0 / 3.0;
/// Images this much nearer than a training image has its nearest other are the same image, whatever else is
/// near.
const SAME: f64 = 0.05;
/// Training images whose own neighbours are looked for.
const OWN: usize = 1000;

/// The nearest of many points.
struct Neighbour {
    /// Its Euclidean distance.
    distance: f64,
    /// The distance of the second nearest; infinite where there is none.
    second: f64,
}

/// The nearest of `among` to each point, of which `points` has as many views as `views` says, one after the
/// other: near is what any of them is near.
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

/// How near images come to those of training, pixel by pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memorisation {
    /// The share of copies: images at less than a third of the distance from the nearest training image that
    /// they are from the second nearest.
    pub copies: f64,
    /// The mean distance to the nearest training image.
    pub nearest: f64,
    /// The same of training images to the nearest other one. Where images are learnt by heart, `nearest` is
    /// far below it.
    pub training_nearest: f64,
}

/// Training images, among which others are looked for.
#[derive(Clone, Debug)]
pub struct TrainingImages {
    points: Points,
    mirrored: bool,
    /// The mean distance of one to the nearest other one.
    nearest: f64,
}

impl TrainingImages {
    /// The images of `training` (M, C, H, W), M at least 2; of a training that mirrored them, their mirror
    /// images (`mirrored`) as well.
    ///
    /// # Errors
    /// Fewer; a pixel that is not finite.
    pub fn new(training: &Tensor, mirrored: bool) -> Result<Self, EvalError> {
        let known = training.dim(0)?;
        if known < 2 {
            return Err(EvalError::TooFew(known));
        }
        let mut new = Self { points: Points::new(training)?, mirrored, nearest: f64::NAN };
        // The nearest of all is the image itself.
        let own = new.nearest(&spread(training, OWN)?)?;
        new.nearest = own.iter().map(|found| found.second).sum::<f64>() / own.len() as f64;
        Ok(new)
    }

    /// Whether mirror images are looked for as well.
    pub fn mirrored(&self) -> bool {
        self.mirrored
    }

    /// The nearest of these to each of `images`.
    fn nearest(&self, images: &Tensor) -> Result<Vec<Neighbour>, EvalError> {
        if !self.mirrored {
            return nearest(&Points::new(images)?, 1, &self.points);
        }
        let views = Tensor::stack(&[images, &images.flip(&[3])?], 1)?;
        nearest(&Points::new(&views.flatten(0, 1)?)?, 2, &self.points)
    }

    /// How near generated `images` (N, C, H, W) come to these, N at least 1. The work grows with N·M: a few
    /// thousand of each are enough.
    ///
    /// # Errors
    /// No images, or of another size; a pixel that is not finite.
    pub fn memorisation(&self, images: &Tensor) -> Result<Memorisation, EvalError> {
        let count = images.dim(0)?;
        if count == 0 {
            return Err(EvalError::TooFew(count));
        }
        let found = self.nearest(images)?;
        // A training image that is there twice is its copy's second neighbour too.
        let same = SAME * self.nearest;
        let copies =
            found.iter().filter(|found| found.distance < (COPY * found.second).max(same)).count();
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
    fn the_nearest_of_several_views_is_that_of_any() {
        let found =
            nearest(&points(&[[9.0, 9.0], [3.0, 4.0]]), 2, &points(&[[0.0, 0.0], [9.0, 8.0]]))
                .unwrap();
        assert_eq!((found.len(), found[0].distance, found[0].second), (1, 1.0, 5.0));
    }
}
