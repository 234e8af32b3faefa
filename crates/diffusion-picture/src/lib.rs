//! Tensors as pictures and back.
//!
//! - [`Picture`]: an 8-bit picture, grey or RGB; [`from_tensor`] makes them of a batch of images.
//! - [`grid`], [`grid_of`]: many pictures as one.
//! - [`Picture::write_png`], [`Picture::read_png`], [`write_gif`]: picture files.
//! - [`write_npy`], [`read_npy`]: images as an array of numpy. The header of such files is in [`npy`].
//!
//! Every file is written beside its final name and renamed. This crate reads no JPEG and no other picture file than its
//! own PNG files: decoding, scaling and EXIF rotation are in `diffusion-data`.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use diffusion_picture::{Picture, from_tensor, grid};
//!
//! let images = Tensor::zeros((4, 1, 8, 8), DType::F32, &Device::Cpu)?;
//! let grid = grid(&from_tensor(&images)?)?;
//! let path = std::env::temp_dir().join("diffusion-picture-example.png");
//! grid.write_png(&path)?;
//! assert_eq!(Picture::read_png(&path)?, grid);
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
pub use grid::{grid, grid_of};
pub use npy::{read_npy, write_npy};
pub use picture::{Picture, from_tensor};

/// Writes a file that appears under its name when it is complete. It is not synced: a run writes thousands of pictures.
fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_file_with(path, |partial| fs::write(partial, bytes).map_err(FileError::io(path)))
}
