use std::path::{Path, PathBuf};

use diffusion_files::FileError;
use thiserror::Error;

/// An error about data that cannot be read or written. Every error about a file names the file.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file or folder cannot be read, written or used, or contradicts its description.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file does not follow its format.
    #[error("{path}: at offset {offset}: expected {expected}, found {found}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The offset in bytes from the start of the file, after decompression.
        offset: u64,
        /// What the format requires there.
        expected: String,
        /// What the file contains there.
        found: String,
    },
    /// A folder or an archive contains no pictures.
    #[error("{path}: no pictures found: expected {expected}, found {found}", path = .path.display())]
    NothingFound {
        /// The folder or the archive.
        path: PathBuf,
        /// Which files would be pictures.
        expected: &'static str,
        /// The names of the files that were found.
        found: String,
    },
    /// All pictures are damaged, or more than allowed.
    #[error("{path}: {problem}: {}", .reasons.join("; "), path = .path.display())]
    Damaged {
        /// The path of the source.
        path: PathBuf,
        /// How many are damaged, and what to do about it.
        problem: String,
        /// The first damaged pictures, each with its name and what is wrong with it.
        reasons: Vec<String>,
    },
    /// The progress callback asked to stop.
    #[error("stopped while the pictures were prepared")]
    Cancelled,
    /// The arguments do not describe a valid data set or batch.
    #[error("{0}")]
    Invalid(String),
    /// An error of the tensor library or of the device.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl DataError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let error = FileError::io(path);
        move |source| error(source).into()
    }

    pub(crate) fn unusable(path: &Path, problem: impl ToString) -> Self {
        FileError::unusable(path, problem).into()
    }
}

/// The first few names, for an error message.
pub(crate) fn first_names(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len() {
        0 => "no files".to_owned(),
        n if n > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}
