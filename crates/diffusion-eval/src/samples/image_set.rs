//! Sets of images from any source.

use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::{EvalError, spread};

/// A set of images that are read on demand.
#[allow(clippy::len_without_is_empty)] // an empty set is too small, like other small ones
pub trait ImageSet: Clone {
    /// The number of images.
    fn len(&self) -> usize;

    /// The shape (C, H, W) of each image.
    fn shape(&self) -> [usize; 3];

    /// At most `most` of the images, spread over the set. Each call returns the same ones.
    ///
    /// # Errors
    /// If no image would be left.
    fn limited(&self, most: usize) -> Result<Self, EvalError>;

    /// The images at `positions`, (n, C, H, W) in \[−1, 1\], on `device`.
    ///
    /// # Errors
    /// If positions are outside the set. If an image cannot be read.
    fn images(&self, positions: Range<usize>, device: &Device) -> Result<Tensor, EvalError>;
}

/// Images (N, C, H, W) in memory.
impl ImageSet for Tensor {
    fn len(&self) -> usize {
        self.dims().first().copied().unwrap_or(0)
    }

    fn shape(&self) -> [usize; 3] {
        let side = |dim: usize| self.dims().get(dim).copied().unwrap_or(1);
        [side(1), side(2), side(3)]
    }

    fn limited(&self, most: usize) -> Result<Self, EvalError> {
        Ok(spread(self, most)?)
    }

    fn images(&self, positions: Range<usize>, device: &Device) -> Result<Tensor, EvalError> {
        Ok(self.narrow(0, positions.start, positions.len())?.to_device(device)?)
    }
}
