use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a file or folder could not be read, written or used.
#[derive(Debug, Error)]
pub enum FileError {
    /// An input/output error of the operating system.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
    /// A file or folder that exists but cannot be used.
    #[error("{path}: {problem}", path = .path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// One sentence: what is wrong, and what would be right.
        problem: String,
    },
}

impl FileError {
    /// Turns an error of the system about `path` into this one: `fs::read(path).map_err(FileError::io(path))`.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// `path` cannot be used because of `problem`, one sentence.
    pub fn unusable(path: &Path, problem: impl ToString) -> Self {
        Self::Unusable { path: path.to_owned(), problem: problem.to_string() }
    }
}
