use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// An error about a file or folder that cannot be read, written or used.
#[derive(Debug, Error)]
pub enum FileError {
    /// An I/O error of the operating system.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file or folder that exists but cannot be used.
    #[error("{path}: {problem}", path = .path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what would be right, in one sentence.
        problem: String,
    },
}

impl FileError {
    /// Returns a function that adds `path` to an I/O error:
    /// `fs::read(path).map_err(FileError::io(path))`.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// The error that `path` cannot be used because of `problem`, one sentence.
    pub fn unusable(path: &Path, problem: impl ToString) -> Self {
        Self::Unusable { path: path.to_owned(), problem: problem.to_string() }
    }
}
