//! Data sets from whatever holds pictures, and the seeded loader.
//!
//! - [`Source`]: recognises what lies at a path: folders, archives, parquet, numpy's arrays, IDX and CIFAR files.
//! - [`prepare`]: decodes, turns and scales all pictures of a source, names the damaged ones, and keeps the result in a cache.
//! - [`ImageDataset`]: 8-bit pictures of one size with optional classes; parts of it by class, number or for validation.
//! - [`Loader`]: shuffled batches in \[−1, 1\], with an exact position to resume from.
//! - [`pack()`]: one portable file of a source's pictures.
//! - [`read_picture`]: one picture file as the image of a model.
//!
//! Nothing here trains, downloads (`diffusion-hub`), writes single pictures (`diffusion-picture`) or prints. Files are read
//! with distrust: whatever is wrong with one is an error that names the file, the place in it and what should have been
//! there.
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
pub use dataset::ImageDataset;
pub use dataset::loader::{Batch, Loader, LoaderConfig, LoaderPosition};
pub use error::DataError;
pub use pack::{Packed, pack};
pub use prepare::report::{Damaged, Report};
pub use prepare::single::{picture_dimensions, read_picture};
pub use prepare::{PrepareProgress, Prepared, prepare};
pub use source::{Source, idx, mnist};
