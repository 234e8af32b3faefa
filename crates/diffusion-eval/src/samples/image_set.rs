//! Images, wherever they come from.

use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::{EvalError, spread};

/// A set of images that are read when they are needed.
#[allow(clippy::len_without_is_empty)] // an empty set is judged by its number, as other small ones are
pub trait ImageSet: Clone {
    /// The number of images.
    fn len(&self) -> usize;

    /// Channels, height and width of each.
    fn shape(&self) -> [usize; 3];

    /// At most `most` of the images, spread over the set and the same ones at each call.
    ///
    /// # Errors
    /// None of them.
    fn limited(&self, most: usize) -> Result<Self, EvalError>;

    /// The images at `positions`, (n, C, H, W) in \[−1, 1\], on `device`.
    ///
    /// # Errors
    /// Positions outside the set; those of reading.
    fn images(&self, positions: Range<usize>, device: &Device) -> Result<Tensor, EvalError>;
}

/// Images (N, C, H, W) that are in memory.
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
