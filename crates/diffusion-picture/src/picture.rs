//! 8-bit pictures, and their conversion from image tensors.

use candle_core::{DType, Device, Tensor};

use crate::PictureError;

/// An 8-bit picture, grey or RGB. Rows run from the top, channels are interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
    /// The number of channels: 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// The pixels, height · width · channels bytes.
    pub pixels: Vec<u8>,
}

/// Converts a batch of images (N, C, H, W) to pictures: −1 is black, 1 is white. Values outside
/// \[−1, 1\] are clamped.
///
/// # Errors
/// If the tensor does not have four dimensions, or C is not 1 or 3. An error of the device.
pub fn from_tensor(images: &Tensor) -> Result<Vec<Picture>, PictureError> {
    let (n, channels, height, width) = images.dims4()?;
    if channels != 1 && channels != 3 {
        return Err(PictureError::Invalid(format!(
            "a picture must have 1 or 3 channels, got {channels}"
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

/// Maps −1 to 0, 1 to 255 and NaN to 0.
fn to_byte(value: f32) -> u8 {
    ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}

impl Picture {
    /// Enlarges the picture: every pixel becomes a square of `factor`×`factor` pixels.
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

    /// Enlarges the picture by the smallest whole factor that makes it at least 500 pixels wide.
    #[must_use]
    pub fn enlarged_for_viewing(&self) -> Self {
        self.enlarged(500usize.div_ceil(self.width.max(1)).max(1))
    }
}
