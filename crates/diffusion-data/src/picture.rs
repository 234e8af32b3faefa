//! Tensors as pictures: 8-bit images, grids of them, PNG and npy files.

mod file;
mod npy;

use std::ffi::OsString;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::DataError;
pub use file::{dimensions, read_as};
pub use npy::read_npy;

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
/// A tensor of another rank; channels other than 1 or 3; those of the device.
pub fn from_tensor(images: &Tensor) -> Result<Vec<Picture>, DataError> {
    let (n, channels, height, width) = images.dims4()?;
    if channels != 1 && channels != 3 {
        return Err(DataError::Invalid(format!("a picture has 1 or 3 channels, not {channels}")));
    }
    let interleaved = images.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.permute((0, 2, 3, 1))?;
    let values = interleaved.flatten_all()?.to_vec1::<f32>()?;
    let per_image = channels * height * width;
    Ok((0..n)
        .map(|i| {
            let pixels = values[i * per_image..(i + 1) * per_image].iter().map(|&v| to_byte(v)).collect();
            Picture { width, height, channels, pixels }
        })
        .collect())
}

/// −1 to 0, 1 to 255; NaN to 0.
fn to_byte(value: f32) -> u8 {
    ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}

/// Pictures of one size, row by row, as near to a square as their number allows, two dark pixels between them.
///
/// # Errors
/// No pictures, or pictures of different sizes.
pub fn grid(pictures: &[Picture]) -> Result<Picture, DataError> {
    grid_of(pictures, (pictures.len() as f64).sqrt().ceil() as usize)
}

/// As [`grid`], with the given number of `columns`, at least 1.
///
/// # Errors
/// As there.
pub fn grid_of(pictures: &[Picture], columns: usize) -> Result<Picture, DataError> {
    const GAP: usize = 2;
    const GAP_VALUE: u8 = 48;
    let Some(first) = pictures.first() else {
        return Err(DataError::Invalid("a grid needs at least one picture".to_owned()));
    };
    let (w, h, channels) = (first.width, first.height, first.channels);
    if pictures.iter().any(|p| (p.width, p.height, p.channels) != (w, h, channels)) {
        return Err(DataError::Invalid("the pictures of a grid must have one size".to_owned()));
    }
    let columns = columns.max(1);
    let rows = pictures.len().div_ceil(columns);
    let (width, height) = (columns * (w + GAP) + GAP, rows * (h + GAP) + GAP);
    let mut pixels = vec![GAP_VALUE; width * height * channels];
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) = (GAP + i % columns * (w + GAP), GAP + i / columns * (h + GAP));
        for (y, row) in picture.pixels.chunks_exact(w * channels).enumerate() {
            let start = ((top + y) * width + left) * channels;
            pixels[start..start + row.len()].copy_from_slice(row);
        }
    }
    Ok(Picture { width, height, channels, pixels })
}

impl Picture {
    /// The picture with every pixel a square of `factor` pixels.
    #[must_use]
    pub fn enlarged(&self, factor: usize) -> Self {
        let pixels = self
            .pixels
            .chunks_exact(self.width * self.channels)
            .flat_map(|row| {
                let wide: Vec<u8> =
                    row.chunks_exact(self.channels).flat_map(|pixel| pixel.repeat(factor)).collect();
                wide.repeat(factor)
            })
            .collect();
        Self { width: self.width * factor, height: self.height * factor, channels: self.channels, pixels }
    }

    /// The picture with its pixels enlarged by a whole number until it is some 500 pixels wide; larger ones stay.
    #[must_use]
    pub fn enlarged_for_viewing(&self) -> Self {
        self.enlarged(500usize.div_ceil(self.width.max(1)).max(1))
    }

    /// The PNG at `path`, of 8 bits, grey or RGB: what [`write_png`](Self::write_png) wrote.
    ///
    /// # Errors
    /// What the system refuses; a file that is no such PNG.
    pub fn read_png(path: &Path) -> Result<Self, DataError> {
        let invalid = |problem: String| DataError::Invalid(format!("{}: {problem}", path.display()));
        let file = std::fs::File::open(path).map_err(DataError::io(path))?;
        let mut reader = png::Decoder::new(std::io::BufReader::new(file))
            .read_info()
            .map_err(|e| invalid(format!("no PNG: {e}")))?;
        let (width, height) = (reader.info().width as usize, reader.info().height as usize);
        let channels = match reader.output_color_type() {
            (png::ColorType::Grayscale, png::BitDepth::Eight) => 1,
            (png::ColorType::Rgb, png::BitDepth::Eight) => 3,
            (colour, depth) => return Err(invalid(format!("a PNG of {colour:?} and {depth:?} bits"))),
        };
        let Some(size) = reader.output_buffer_size() else {
            return Err(invalid("it is too large".to_owned()));
        };
        let mut pixels = vec![0; size];
        reader.next_frame(&mut pixels).map_err(|e| invalid(e.to_string()))?;
        Ok(Self { width, height, channels, pixels })
    }

    /// Writes a PNG. The file appears under its name only when it is complete.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn write_png(&self, path: &Path) -> Result<(), DataError> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(if self.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
        encoder.set_depth(png::BitDepth::Eight);
        encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&self.pixels))
            .map_err(|e| DataError::io(path)(e.into()))?;
        write_then_rename(path, |partial| std::fs::write(partial, &bytes).map_err(DataError::io(path)))
    }
}

/// Writes pictures of one size as an animated GIF that repeats: each for `hundredths` of a second, the last one for
/// longer. The file appears under its name only when it is complete.
///
/// # Errors
/// No pictures, pictures of different sizes or of more than 65,535 pixels a side; what the system refuses.
pub fn write_gif(pictures: &[Picture], hundredths: u16, path: &Path) -> Result<(), DataError> {
    const LAST: u16 = 150;
    let Some(first) = pictures.first() else {
        return Err(DataError::Invalid("a GIF needs at least one picture".to_owned()));
    };
    let size = |p: &Picture| (p.width, p.height, p.channels);
    let (Ok(width), Ok(height)) = (u16::try_from(first.width), u16::try_from(first.height)) else {
        return Err(DataError::Invalid(format!("{}×{} is too large for a GIF", first.width, first.height)));
    };
    if pictures.iter().any(|p| size(p) != size(first)) {
        return Err(DataError::Invalid("the pictures of a GIF must have one size".to_owned()));
    }
    let greys: Vec<u8> = (0..=255).flat_map(|grey| [grey; 3]).collect();
    let io = |e: gif::EncodingError| DataError::io(path)(std::io::Error::other(e));
    let mut bytes = Vec::new();
    let palette: &[u8] = if first.channels == 1 { &greys } else { &[] };
    let mut encoder = gif::Encoder::new(&mut bytes, width, height, palette).map_err(io)?;
    encoder.set_repeat(gif::Repeat::Infinite).map_err(io)?;
    for (i, picture) in pictures.iter().enumerate() {
        let mut frame = if picture.channels == 1 {
            gif::Frame::from_indexed_pixels(width, height, picture.pixels.as_slice(), None)
        } else {
            gif::Frame::from_rgb(width, height, &picture.pixels)
        };
        frame.delay = if i + 1 == pictures.len() { LAST.max(hundredths) } else { hundredths };
        encoder.write_frame(&frame).map_err(io)?;
    }
    drop(encoder);
    write_then_rename(path, |partial| std::fs::write(partial, &bytes).map_err(DataError::io(path)))
}

/// Writes a tensor as an npy file. The file appears under its name only when it is complete.
///
/// # Errors
/// What the system refuses; those of the device.
pub fn write_npy(tensor: &Tensor, path: &Path) -> Result<(), DataError> {
    let tensor = tensor.to_device(&Device::Cpu)?;
    write_then_rename(path, |partial| {
        tensor.write_npy(partial).map_err(|e| DataError::io(path)(std::io::Error::other(e.to_string())))
    })
}

fn write_then_rename(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut name = OsString::from(".partial-");
    name.push(path.file_name().unwrap_or_default());
    let partial = path.with_file_name(name);
    let result = write(&partial).and_then(|()| std::fs::rename(&partial, path).map_err(DataError::io(path)));
    if result.is_err() {
        // Best effort: the error that matters is the one being returned.
        let _ = std::fs::remove_file(&partial);
    }
    result
}
