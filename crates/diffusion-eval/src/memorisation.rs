//! Whether generated images are new, or those of training once more.

use candle_core::Tensor;

use crate::EvalError;
use crate::points::Points;
use crate::samples::spread;

/// An image is a copy if its nearest training image is at less than this share of the distance of the second nearest (Yoon et
/// al. 2023, "Diffusion probabilistic models generalize when they fail to memorize").
const COPY: f64 = 1.0 / 3.0;
/// Images this much nearer than a training image has its nearest other are the same image, whatever else is near.
const SAME: f64 = 0.05;
/// Training images whose own neighbours are looked for.
const OWN: usize = 1000;

/// The nearest of many points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its position.
    pub index: usize,
    /// Its Euclidean distance.
    pub distance: f64,
    /// The distance of the second nearest; infinite where there is none.
    pub second: f64,
}

/// The nearest of `among` (M, …) to each row of `points` (N, …), M at least 1.
///
/// # Errors
/// Rows of different sizes; no rows to be found; a number that is not finite.
pub fn nearest(points: &Tensor, among: &Tensor) -> Result<Vec<Neighbour>, EvalError> {
    nearest_points(&Points::new(points)?, 1, &Points::new(among)?)
}

/// The nearest of `among` to each point, of which `points` has as many views as `views` says, one after the other: near is what any of them
/// is near.
fn nearest_points(points: &Points, views: usize, among: &Points) -> Result<Vec<Neighbour>, EvalError> {
    if among.len() == 0 {
        return Err(EvalError::TooFew(0));
    }
    let mut found = Vec::with_capacity(points.len() / views);
    let mut nearest_view = vec![f64::INFINITY; among.len()];
    points.each_row_of_distances(among, |i, squares| {
        for (nearest, &square) in nearest_view.iter_mut().zip(squares) {
            *nearest = nearest.min(square);
        }
        if (i + 1) % views > 0 {
            return;
        }
        let mut best = Neighbour { index: 0, distance: f64::INFINITY, second: f64::INFINITY };
        for (index, square) in nearest_view.iter_mut().enumerate() {
            let square = std::mem::replace(square, f64::INFINITY);
            if square < best.distance {
                best = Neighbour { index, distance: square, second: best.distance };
            } else if square < best.second {
                best.second = square;
            }
        }
        found.push(Neighbour { distance: best.distance.sqrt(), second: best.second.sqrt(), ..best });
    })?;
    Ok(found)
}

/// How near images come to those of training, pixel by pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memorisation {
    /// The share of copies: images at less than a third of the distance from the nearest training image that they are from the
    /// second nearest.
    pub copies: f64,
    /// The mean distance to the nearest training image.
    pub nearest: f64,
    /// The same of training images to the nearest other one. Where images are learnt by heart, `nearest` is far below it.
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
    /// The images of `training` (M, C, H, W), M at least 2; of a training that mirrored them, their mirror images (`mirrored`) as well.
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
            return nearest_points(&Points::new(images)?, 1, &self.points);
        }
        let views = Tensor::stack(&[images, &images.flip(&[3])?], 1)?;
        nearest_points(&Points::new(&views.flatten(0, 1)?)?, 2, &self.points)
    }

    /// How near generated `images` (N, C, H, W) come to these, N at least 1. The work grows with N·M: a few thousand of each are
    /// enough.
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
        let copies = found.iter().filter(|found| found.distance < (COPY * found.second).max(same)).count();
        Ok(Memorisation {
            copies: copies as f64 / count as f64,
            nearest: found.iter().map(|found| found.distance).sum::<f64>() / count as f64,
            training_nearest: self.nearest,
        })
    }
}

impl Memorisation {
    /// Of generated `images` beside those of `training`; [`TrainingImages`] spares the work where several sets are looked at.
    ///
    /// # Errors
    /// Those of [`TrainingImages::new`] and [`TrainingImages::memorisation`].
    pub fn of(images: &Tensor, training: &Tensor) -> Result<Self, EvalError> {
        TrainingImages::new(training, false)?.memorisation(images)
    }
}
