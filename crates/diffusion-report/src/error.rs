//! What can go wrong while drawing.

use std::path::PathBuf;

use diffusion_files::FileError;
use diffusion_picture::PictureError;
use diffusion_train::TrainError;
use thiserror::Error;

/// Why there is no picture or page.
#[derive(Debug, Error)]
pub enum ReportError {
    /// A name whose ending says nothing of what it is to be.
    #[error("{}: a chart is written as .png or .svg", .0.display())]
    Format(PathBuf),
    /// Nothing to draw, or more than a picture can show.
    #[error("{0}")]
    Invalid(String),
    /// The drawing library's own error.
    #[error("cannot draw: {0}")]
    Drawing(String),
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A picture that cannot be made, read or written.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A run that cannot be read.
    #[error(transparent)]
    Train(#[from] TrainError),
}
