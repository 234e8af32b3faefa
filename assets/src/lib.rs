//! Data that ships with the program `diffusion`, as bytes.
//!
//! - [`MNIST_IMAGES`] and [`MNIST_LABELS`]: 10,000 handwritten digits with their classes, the
//!   default data set of `diffusion train`.
//! - [`DIGITS_MODEL`]: a small diffusion model of digits, which `diffusion sample` uses before the
//!   first training.
//! - [`DIGIT_JUDGE`]: the digit classifier whose features `diffusion evaluate samples` compares.
//!
//! This crate reads and decodes nothing. The digits are from MNIST (Y. LeCun, C. Cortes, C. Burges)
//! and have its licence, CC BY-SA 3.0. Both networks were trained on MNIST. The README of this
//! crate says how each file was made.
//!
//! ```
//! use diffusion_assets::{DIGITS_MODEL, MNIST_IMAGES};
//!
//! // A gzip file, and a safetensors file: the length of a JSON header, then the header.
//! assert_eq!(MNIST_IMAGES[..2], [0x1f, 0x8b]);
//! let length = u64::from_le_bytes(DIGITS_MODEL[..8].try_into()?) as usize;
//! assert!(DIGITS_MODEL[8..8 + length].starts_with(b"{"));
//! # Ok::<(), std::array::TryFromSliceError>(())
//! ```

/// Images of 10,000 digits of MNIST's training set, 1,000 of each class: a gzipped IDX file of
/// 28×28 pixels, one byte a pixel (0 background, 255 ink).
pub const MNIST_IMAGES: &[u8] = include_bytes!("../mnist/train-10k-images-idx3-ubyte.gz");

/// Classes of [`MNIST_IMAGES`], 0 to 9: a gzipped IDX file.
pub const MNIST_LABELS: &[u8] = include_bytes!("../mnist/train-10k-labels-idx1-ubyte.gz");

/// A packed class-conditional model of digits, after five minutes of the default training: EMA
/// weights in half precision, with its description as metadata, in one safetensors file.
pub const DIGITS_MODEL: &[u8] = include_bytes!("../digits.safetensors");

/// A digit classifier in half precision, with the statistics of its features on MNIST's 10,000 test
/// digits, in one safetensors file.
pub const DIGIT_JUDGE: &[u8] = include_bytes!("../digit-judge.safetensors");
