//! Pictures in memory.

use candle_core::{Device, Tensor};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::DataError;

/// 8-bit pictures of one size, with a class each if there are classes.
#[derive(Clone, Debug)]
pub struct ImageDataset {
    pixels: Vec<u8>,
    labels: Option<Vec<u8>>,
    image_shape: [usize; 3],
}

impl ImageDataset {
    /// From `pixels`, N·C·H·W bytes in that order, and N labels; `image_shape` is [C, H, W].
    ///
    /// # Errors
    /// No pictures; a length that is not a multiple of the picture's; a count of labels other than N.
    pub fn new(pixels: Vec<u8>, labels: Option<Vec<u8>>, image_shape: [usize; 3]) -> Result<Self, DataError> {
        let per_image: usize = image_shape.iter().product();
        if pixels.is_empty() || per_image == 0 {
            return Err(DataError::Invalid("a data set needs at least one picture".to_owned()));
        }
        if !pixels.len().is_multiple_of(per_image) {
            return Err(DataError::Invalid(format!(
                "{} bytes do not divide into pictures of {image_shape:?}",
                pixels.len()
            )));
        }
        let count = pixels.len() / per_image;
        if let Some(labels) = &labels
            && labels.len() != count
        {
            return Err(DataError::Invalid(format!("{} labels for {count} pictures", labels.len())));
        }
        Ok(Self { pixels, labels, image_shape })
    }

    /// The number of pictures, at least 1.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.pixels.len() / self.per_image()
    }

    /// [C, H, W] of every picture.
    pub fn image_shape(&self) -> [usize; 3] {
        self.image_shape
    }

    /// The class of each picture, if the set has classes.
    pub fn labels(&self) -> Option<&[u8]> {
        self.labels.as_deref()
    }

    /// The pixels of picture `i`, C·H·W bytes.
    ///
    /// # Panics
    /// `i` outside the set.
    pub fn image(&self, i: usize) -> &[u8] {
        let n = self.per_image();
        &self.pixels[i * n..(i + 1) * n]
    }

    /// The pictures with the given indices as (N, C, H, W) in f32, black −1 and white 1.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// An index outside the set.
    pub fn images(&self, indices: &[usize], device: &Device) -> Result<Tensor, DataError> {
        let values: Vec<f32> =
            indices.iter().flat_map(|&i| self.image(i)).map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
        let [c, h, w] = self.image_shape;
        Ok(Tensor::from_vec(values, (indices.len(), c, h, w), device)?)
    }

    /// The same pictures at `size`×`size` pixels, resampled with an antialiasing filter (Catmull-Rom). Pictures that are
    /// not square are stretched.
    ///
    /// # Errors
    /// A size of 0 or above 65,535.
    pub fn resized(&self, size: usize) -> Result<Self, DataError> {
        let [channels, height, width] = self.image_shape;
        if (height, width) == (size, size) {
            return Ok(self.clone());
        }
        let side = u16::try_from(size)
            .ok()
            .filter(|side| *side > 0)
            .ok_or_else(|| DataError::Invalid(format!("pictures cannot be brought to a size of {size}")))?;
        let invalid = |e: &dyn std::fmt::Display| DataError::Invalid(format!("resizing pictures: {e}"));
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        let mut resizer = Resizer::new();
        let mut pixels = Vec::with_capacity(self.len() * channels * size * size);
        for i in 0..self.len() {
            // The planes of a picture are resampled one by one, whatever their number.
            for plane in self.image(i).chunks_exact(height * width) {
                let source = ImageRef::new(width as u32, height as u32, plane, PixelType::U8)
                    .map_err(|e| invalid(&e))?;
                let mut target = Image::new(side.into(), side.into(), PixelType::U8);
                resizer.resize(&source, &mut target, &options).map_err(|e| invalid(&e))?;
                pixels.extend_from_slice(target.buffer());
            }
        }
        Self::new(pixels, self.labels.clone(), [channels, size, size])
    }

    /// A checksum of everything in the set, to notice that a run goes on with other data than it began with.
    pub fn fingerprint(&self) -> u32 {
        let mut crc = flate2::Crc::new();
        for dim in self.image_shape {
            crc.update(&(dim as u64).to_le_bytes());
        }
        crc.update(&self.pixels);
        crc.update(self.labels.as_deref().unwrap_or_default());
        crc.sum()
    }

    fn per_image(&self) -> usize {
        self.image_shape.iter().product()
    }
}
