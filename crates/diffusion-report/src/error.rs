//! The errors of charts, sheets and run pages.

use std::path::PathBuf;

use diffusion_files::FileError;
use diffusion_picture::PictureError;
use diffusion_train::TrainError;
use thiserror::Error;

/// Why a chart, sheet or page could not be made.
#[derive(Debug, Error)]
pub enum ReportError {
    /// A file name that does not end in `.png` or `.svg`.
    #[error("{}: the name of a chart must end in .png or .svg", .0.display())]
    Format(PathBuf),
    /// The content cannot be drawn; the text says why.
    #[error("{0}")]
    Invalid(String),
    /// An error of the drawing library.
    #[error("cannot draw: {0}")]
    Drawing(String),
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A picture that cannot be created, read or written.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A run that cannot be read.
    #[error(transparent)]
    Train(#[from] TrainError),
}
