//! Pictures in and out: data sets, the seeded loader, PNG grids.
//!
//! - [`ImageDataset`]: 8-bit pictures of one size with optional labels, from IDX files ([`idx`], [`mnist`]).
//! - [`Loader`]: shuffled batches in \[−1, 1\], with an exact position to resume from.
//! - [`picture`]: tensors back to pictures, singly or as a grid.
//! - `hub`, behind a feature: complete data sets from the Hugging Face hub, when a program asks for them.
//!
//! Nothing here trains, downloads unasked or prints. Files are read with distrust: whatever is wrong with one is an
//! error that names the file, the place in it and what should have been there.
//!
//! ```
//! use candle_core::Device;
//! use diffusion_data::{ImageDataset, Loader};
//!
//! let dataset = ImageDataset::new(vec![255; 10 * 28 * 28], None, [1, 28, 28])?;
//! let mut loader = Loader::new(&dataset, 4, 0)?;
//! let batch = loader.next_batch(&Device::Cpu)?;
//! assert_eq!(batch.images.dims(), [4, 1, 28, 28]);
//! assert_eq!(batch.images.max_all()?.to_scalar::<f32>()?, 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod dataset;
mod error;
#[cfg(feature = "hub")]
pub mod hub;
pub mod idx;
mod loader;
pub mod mnist;
pub mod picture;

pub use dataset::ImageDataset;
pub use error::DataError;
pub use loader::{Batch, Loader, LoaderPosition};
