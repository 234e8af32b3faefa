use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why data could not be read or written. Every variant about a file names it.
#[derive(Debug, Error)]
pub enum DataError {
    /// The operating system's refusal.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
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
    /// Two files, or a file and a description of it, that do not belong together.
    #[error("{path}: {problem}", path = .path.display())]
    Mismatch {
        /// The file or folder.
        path: PathBuf,
        /// One sentence.
        problem: String,
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
    /// The device's own error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl DataError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
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
