//! Converts image tensors to 8-bit pictures and writes them as PNG, animated GIF or npy files.
//!
//! - [`Picture`]: an 8-bit picture, grey or RGB. [`from_tensor`] converts a batch (N, C, H, W).
//! - [`grid`], [`grid_with_columns`]: arrange pictures in a grid.
//! - [`Picture::write_png`], [`Picture::read_png`], [`write_gif`]: picture files.
//! - [`Picture::write_sheet`]: a picture file of several images, which [`is_sheet`] recognises.
//! - [`write_npy`], [`read_npy`]: images as a numpy array. The module [`npy`] parses the header.
//!
//! Every file is written under a temporary name and then renamed. The only picture files that this
//! crate reads are 8-bit PNG files, grey or RGB. Decoding of other formats, scaling and EXIF
//! rotation are in `diffusion-data`.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use diffusion_picture::{Picture, from_tensor, grid};
//!
//! let images = Tensor::zeros((4, 1, 8, 8), DType::F32, &Device::Cpu)?;
//! let picture = grid(&from_tensor(&images)?)?;
//! let path = std::env::temp_dir().join("diffusion-picture-example.png");
//! picture.write_png(&path)?;
//! assert_eq!(Picture::read_png(&path)?, picture);
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod gif;
mod grid;
pub mod npy;
mod picture;
mod png;

use std::fs;
use std::path::Path;

use diffusion_files::{FileError, write_file_with};

pub use error::PictureError;
pub use gif::write_gif;
pub use grid::{grid, grid_with_columns};
pub use npy::{read_npy, write_npy};
pub use picture::{Picture, from_tensor};

/// The comment in files that show several images.
const SHEET_MARK: &str = "diffusion: several images in one picture";

/// Whether a PNG or GIF file, of which `head` is the first kilobyte, shows several images and was
/// written by [`Picture::write_sheet`] or [`write_gif`].
pub fn is_sheet(head: &[u8]) -> bool {
    head.windows(SHEET_MARK.len()).any(|window| window == SHEET_MARK.as_bytes())
}

/// Writes a file that appears under its name only when it is complete. It is not synced, because a
/// run writes thousands of pictures.
fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_file_with(path, |partial| fs::write(partial, bytes).map_err(FileError::io(path)))
}
