//! Turns folders, archives and array files of pictures into data sets and seeded training batches.
//!
//! - [`Source`]: a set of pictures on disk. It recognises folders, tar and zip archives, parquet,
//!   numpy arrays, and IDX and CIFAR files.
//! - [`prepare`]: decodes, rotates and scales all pictures of a source, reports the damaged ones,
//!   and caches the result.
//! - [`ImageDataset`]: 8-bit pictures of one size with optional classes. It can be restricted to
//!   classes or to a number of pictures, and split for validation.
//! - [`Loader`]: shuffled batches in \[−1, 1\], which can be resumed at an exact position.
//! - [`pack()`]: writes the pictures of a source to one tar or parquet file.
//! - [`read_picture`]: reads one picture file as a tensor of a given shape. [`picture_files`] finds
//!   those of a folder.
//!
//! This crate does not train, download (`diffusion-hub`), write single pictures
//! (`diffusion-picture`) or print. Files are not trusted: an invalid one is an error that names the
//! file, the place in it and what was expected.
//!
//! ```
//! use candle_core::Device;
//! use diffusion_data::{ImageDataset, Loader, LoaderConfig};
//!
//! let dataset = ImageDataset::new(vec![255; 10 * 28 * 28], None, [1, 28, 28])?;
//! let mut loader = Loader::new(&dataset, LoaderConfig::new(4, 0))?;
//! let batch = loader.next_batch(&Device::Cpu)?;
//! assert_eq!(batch.images.dims(), [4, 1, 28, 28]);
//! assert_eq!(batch.images.max_all()?.to_scalar::<f32>()?, 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod dataset;
mod error;
mod pack;
mod prepare;
mod source;

pub use config::{Background, Channels, Fit, PictureConfig, Split};
pub use dataset::loader::{Batch, Loader, LoaderConfig, LoaderPosition};
pub use dataset::{AUGMENTATION_LABELS, ImageDataset};
pub use error::DataError;
pub use pack::{PackReport, pack};
pub use prepare::report::{DamagedPicture, Report};
pub use prepare::single::{picture_dimensions, read_picture};
pub use prepare::{PrepareProgress, PreparedDataset, prepare};
pub use source::{PictureFiles, SizeSurvey, Source, idx, mnist, picture_files};
