//! A picture file as a model's image.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::DataError;
use crate::config::PictureConfig;
use crate::prepare::decode;
use crate::prepare::resize::{Target, luma};

/// Width and height of the picture in the file at `path`, in pixels, turned as it is read.
///
/// # Errors
/// A file that cannot be read or is no picture.
pub fn picture_dimensions(path: &Path) -> Result<(usize, usize), DataError> {
    decode::dimensions_of_file(path).map_err(|problem| DataError::unusable(path, problem))
}

/// The picture in the file at `path`, of any size and any mode, as an image (1, C, H, W) in \[−1, 1\] of the given [C, H, W], C being 1
/// or 3, with the `fit` and the `background` of `prepared`.
///
/// # Errors
/// A file that cannot be read or is no picture; one that is too small; another number of channels.
pub fn read_picture(
    path: &Path,
    [channels, height, width]: [usize; 3],
    prepared: &PictureConfig,
    device: &Device,
) -> Result<Tensor, DataError> {
    let invalid = |problem: String| DataError::unusable(path, problem);
    let &PictureConfig { fit, background, .. } = prepared;
    let target = Target { width, height, fit, background };
    let raster =
        decode::read_file(path).and_then(|bytes| decode::decode(&bytes)).map_err(invalid)?;
    let planes = target.apply(raster).map_err(invalid)?;
    let pixels = match (planes.coloured, channels) {
        (true, 1) => luma(&planes.pixels),
        (false, 3) => planes.pixels.repeat(3),
        (false, 1) | (true, 3) => planes.pixels,
        (_, channels) => {
            return Err(invalid(format!("a picture has 1 or 3 channels, not {channels}")));
        }
    };
    let values: Vec<f32> = pixels.into_iter().map(|pixel| f32::from(pixel) / 127.5 - 1.0).collect();
    Ok(Tensor::from_vec(values, (1, channels, height, width), device)?)
}
