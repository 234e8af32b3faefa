use diffusion_files::FileError;
use thiserror::Error;

/// Why a picture could not be made, read or written.
#[derive(Debug, Error)]
pub enum PictureError {
    /// A file that cannot be read, written or used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Tensors that are not pictures, or pictures that do not fit together.
    #[error("{0}")]
    Invalid(String),
    /// The error of a device.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
