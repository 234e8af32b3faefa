use diffusion_files::FileError;
use thiserror::Error;

/// An error about a picture that cannot be created, read or written.
#[derive(Debug, Error)]
pub enum PictureError {
    /// A file cannot be read, written or used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A tensor is not a picture, or the pictures of a grid or an animation differ in size.
    #[error("{0}")]
    Invalid(String),
    /// An error of the tensor library or of the device.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
