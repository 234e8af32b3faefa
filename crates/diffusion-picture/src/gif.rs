//! Animated GIF files.

use std::path::Path;

use diffusion_files::FileError;

use crate::{Picture, PictureError, SHEET_MARK, write_bytes};

/// Writes pictures of one size as an animated GIF that repeats endlessly. Each picture is shown for
/// `hundredths` hundredths of a second, the last one for at least 1.5 seconds. The file has the
/// mark of [`is_sheet`](crate::is_sheet), and appears under its name only when it is complete.
///
/// # Errors
/// If there are no pictures, or they differ in size or channels, or a side has more than 65,535
/// pixels. An I/O error, if the file cannot be written.
pub fn write_gif(pictures: &[Picture], hundredths: u16, path: &Path) -> Result<(), PictureError> {
    const MIN_LAST_DELAY: u16 = 150;
    let Some(first) = pictures.first() else {
        return Err(PictureError::Invalid("a GIF needs at least one picture".to_owned()));
    };
    let size = |p: &Picture| (p.width, p.height, p.channels);
    let (Ok(width), Ok(height)) = (u16::try_from(first.width), u16::try_from(first.height)) else {
        return Err(PictureError::Invalid(format!(
            "{}×{} pixels are too large for a GIF; a side has at most 65535",
            first.width, first.height
        )));
    };
    if pictures.iter().any(|p| size(p) != size(first)) {
        return Err(PictureError::Invalid(
            "all pictures of a GIF must have one size and the same channels".to_owned(),
        ));
    }
    let greys: Vec<u8> = (0..=255).flat_map(|grey| [grey; 3]).collect();
    let io = |e: gif::EncodingError| FileError::io(path)(std::io::Error::other(e));
    let mut bytes = Vec::new();
    let palette: &[u8] = if first.channels == 1 { &greys } else { &[] };
    let mut encoder = gif::Encoder::new(&mut bytes, width, height, palette).map_err(io)?;
    encoder.set_repeat(gif::Repeat::Infinite).map_err(io)?;
    let mark = gif::Extension::Comment.into();
    encoder.write_raw_extension(mark, &[SHEET_MARK.as_bytes()]).map_err(io)?;
    for (i, picture) in pictures.iter().enumerate() {
        let mut frame = if picture.channels == 1 {
            gif::Frame::from_indexed_pixels(width, height, picture.pixels.as_slice(), None)
        } else {
            gif::Frame::from_rgb(width, height, &picture.pixels)
        };
        frame.delay =
            if i + 1 == pictures.len() { MIN_LAST_DELAY.max(hundredths) } else { hundredths };
        encoder.write_frame(&frame).map_err(io)?;
    }
    drop(encoder);
    Ok(write_bytes(path, &bytes)?)
}
