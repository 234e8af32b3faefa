//! Animations.

use std::path::Path;

use diffusion_files::FileError;

use crate::{Picture, PictureError, write_bytes};

/// Writes pictures of one size as an animated GIF that repeats: each for `hundredths` of a second, the last one for
/// longer. The file appears under its name only when it is complete.
///
/// # Errors
/// No pictures, pictures of different sizes or of more than 65,535 pixels a side; what the system reports.
pub fn write_gif(pictures: &[Picture], hundredths: u16, path: &Path) -> Result<(), PictureError> {
    const LAST: u16 = 150;
    let Some(first) = pictures.first() else {
        return Err(PictureError::Invalid("a GIF needs at least one picture".to_owned()));
    };
    let size = |p: &Picture| (p.width, p.height, p.channels);
    let (Ok(width), Ok(height)) = (u16::try_from(first.width), u16::try_from(first.height)) else {
        return Err(PictureError::Invalid(format!(
            "{}×{} is too large for a GIF",
            first.width, first.height
        )));
    };
    if pictures.iter().any(|p| size(p) != size(first)) {
        return Err(PictureError::Invalid("the pictures of a GIF must have one size".to_owned()));
    }
    let greys: Vec<u8> = (0..=255).flat_map(|grey| [grey; 3]).collect();
    let io = |e: gif::EncodingError| FileError::io(path)(std::io::Error::other(e));
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
    Ok(write_bytes(path, &bytes)?)
}
