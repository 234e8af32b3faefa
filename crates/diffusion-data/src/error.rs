use std::path::{Path, PathBuf};

use diffusion_files::FileError;
use thiserror::Error;

/// Why data could not be read or written. Every error about a file names it.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file or folder that cannot be read, written or used, or does not fit to what describes it.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file's bytes are not what its format wants.
    #[error("{path}: at offset {offset}: expected {expected}, found {found}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Bytes from its start, after decompression.
        offset: u64,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A folder or an archive without any picture.
    #[error("{path}: no pictures found: expected {expected}, found {found}", path = .path.display())]
    NothingFound {
        /// The folder or the archive.
        path: PathBuf,
        /// What would be pictures there.
        expected: &'static str,
        /// The names that are there.
        found: String,
    },
    /// More pictures are damaged than may be, or all.
    #[error("{path}: {problem}: {}", .reasons.join("; "), path = .path.display())]
    Damaged {
        /// The source.
        path: PathBuf,
        /// How many, and what may be done.
        problem: String,
        /// The first of them, each with its name.
        reasons: Vec<String>,
    },
    /// The caller asked to stop.
    #[error("stopped while the pictures were prepared")]
    Cancelled,
    /// Numbers that describe no data set or no batch.
    #[error("{0}")]
    Invalid(String),
    /// The error of a device.
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
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len() {
        0 => "no files".to_owned(),
        n if n > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}
