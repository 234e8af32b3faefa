//! Arranges pictures in a grid.

use crate::{Picture, PictureError};

/// Arranges pictures of one size in a grid, row by row, with ⌈√N⌉ columns and gaps of two dark grey
/// pixels.
///
/// # Errors
/// If there are no pictures, or they differ in size or channels.
pub fn grid(pictures: &[Picture]) -> Result<Picture, PictureError> {
    grid_with_columns(pictures, (pictures.len() as f64).sqrt().ceil() as usize)
}

/// Like [`grid`], with the given number of `columns`; 0 counts as 1.
///
/// # Errors
/// If there are no pictures, or they differ in size or channels.
pub fn grid_with_columns(pictures: &[Picture], columns: usize) -> Result<Picture, PictureError> {
    const GAP: usize = 2;
    const GAP_VALUE: u8 = 48;
    let Some(first) = pictures.first() else {
        return Err(PictureError::Invalid("a grid needs at least one picture".to_owned()));
    };
    let (w, h, channels) = (first.width, first.height, first.channels);
    if pictures.iter().any(|p| (p.width, p.height, p.channels) != (w, h, channels)) {
        return Err(PictureError::Invalid(
            "all pictures of a grid must have one size and the same channels".to_owned(),
        ));
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
