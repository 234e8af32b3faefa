//! Reads one picture file as an image tensor.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::DataError;
use crate::config::PictureConfig;
use crate::prepare::decode;
use crate::prepare::resize::{Target, luma};

/// Width and height in pixels of the picture file at `path`, after EXIF rotation.
///
/// # Errors
/// If the file cannot be read or is not a picture.
pub fn picture_dimensions(path: &Path) -> Result<(usize, usize), DataError> {
    decode::dimensions_of_file(path).map_err(|problem| DataError::unusable(path, problem))
}

/// Reads the picture file at `path` as an image (1, C, H, W) in \[−1, 1\], where C is 1 or 3. The
/// picture may have any size and colour type; `config` gives the `fit` and the `background`.
///
/// # Errors
/// If the file cannot be read or is not a picture, the picture is too small, or C is not 1 or 3. An
/// error of the device.
pub fn read_picture(
    path: &Path,
    [channels, height, width]: [usize; 3],
    config: &PictureConfig,
    device: &Device,
) -> Result<Tensor, DataError> {
    let invalid = |problem: String| DataError::unusable(path, problem);
    let &PictureConfig { fit, background, .. } = config;
    let target = Target { width, height, fit, background };
    let raster =
        decode::read_file(path).and_then(|bytes| decode::decode(&bytes)).map_err(invalid)?;
    let planes = target.apply(raster).map_err(invalid)?;
    let pixels = match (planes.coloured, channels) {
        (true, 1) => luma(&planes.pixels),
        (false, 3) => planes.pixels.repeat(3),
        (false, 1) | (true, 3) => planes.pixels,
        (_, channels) => {
            return Err(invalid(format!("an image must have 1 or 3 channels, got {channels}")));
        }
    };
    let values: Vec<f32> = pixels.into_iter().map(|pixel| f32::from(pixel) / 127.5 - 1.0).collect();
    Ok(Tensor::from_vec(values, (1, channels, height, width), device)?)
}
