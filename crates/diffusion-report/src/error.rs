//! What can go wrong while drawing.

use std::path::PathBuf;

use diffusion_data::DataError;
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
    /// What the system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A picture that cannot be read or written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A run that cannot be read.
    #[error(transparent)]
    Train(#[from] TrainError),
}
