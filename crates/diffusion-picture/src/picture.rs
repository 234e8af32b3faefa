//! One picture, and the images of a batch as pictures.

use candle_core::{DType, Device, Tensor};

use crate::PictureError;

/// An 8-bit picture, grey or RGB, rows from the top, channels interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// height · width · channels bytes.
    pub pixels: Vec<u8>,
}

/// The images of a batch (N, C, H, W) in \[−1, 1\]; values outside are cut off.
///
/// # Errors
/// A tensor of another rank; channels other than 1 or 3; errors of the device.
pub fn from_tensor(images: &Tensor) -> Result<Vec<Picture>, PictureError> {
    let (n, channels, height, width) = images.dims4()?;
    if channels != 1 && channels != 3 {
        return Err(PictureError::Invalid(format!(
            "a picture has 1 or 3 channels, not {channels}"
        )));
    }
    let interleaved =
        images.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.permute((0, 2, 3, 1))?;
    let values = interleaved.flatten_all()?.to_vec1::<f32>()?;
    let per_image = channels * height * width;
    Ok((0..n)
        .map(|i| {
            let pixels =
                values[i * per_image..(i + 1) * per_image].iter().map(|&v| to_byte(v)).collect();
            Picture { width, height, channels, pixels }
        })
        .collect())
}

/// −1 to 0, 1 to 255; NaN to 0.
fn to_byte(value: f32) -> u8 {
    ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}

impl Picture {
    /// The picture with every pixel a square of `factor` pixels.
    #[must_use]
    pub fn enlarged(&self, factor: usize) -> Self {
        let pixels = self
            .pixels
            .chunks_exact(self.width * self.channels)
            .flat_map(|row| {
                let wide: Vec<u8> = row
                    .chunks_exact(self.channels)
                    .flat_map(|pixel| pixel.repeat(factor))
                    .collect();
                wide.repeat(factor)
            })
            .collect();
        Self {
            width: self.width * factor,
            height: self.height * factor,
            channels: self.channels,
            pixels,
        }
    }

    /// The picture with its pixels enlarged by a whole number until it is some 500 pixels wide; larger ones stay.
    #[must_use]
    pub fn enlarged_for_viewing(&self) -> Self {
        self.enlarged(500usize.div_ceil(self.width.max(1)).max(1))
    }
}
