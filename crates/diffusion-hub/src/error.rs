//! The error type. The text of each error is one sentence.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diffusion_files::FileError;

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The connection to the server failed.
    #[error("{endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// Address of the server.
        endpoint: String,
        /// The innermost cause.
        reason: String,
    },
    /// The server stopped sending.
    #[error("no data from {endpoint} for {seconds} seconds", seconds = after.as_secs_f32())]
    Stalled {
        /// Address of the server.
        endpoint: String,
        /// How long the client waited.
        after: Duration,
    },
    /// Downloads are switched off by [`HubConfig::offline`](crate::HubConfig::offline), and the
    /// file is not in the cache.
    #[error("downloads are switched off and the hub's cache does not contain {file}")]
    Offline {
        /// Path of the file inside the repository, or a description of the request.
        file: String,
    },
    /// Every attempt to transfer the file was interrupted. The received bytes are kept, and the
    /// next download continues after them.
    #[error("the transfer of {file} was interrupted (attempt {attempts}): {reason}")]
    Interrupted {
        /// Path of the file inside the repository.
        file: String,
        /// Attempts made.
        attempts: usize,
        /// The cause of the last failure.
        reason: String,
    },
    /// The server has no such file, repository or revision.
    #[error("{endpoint} has no file {file} in the dataset {repository} at {revision}")]
    NotFound {
        /// Address of the server.
        endpoint: String,
        /// Path of the file inside the repository.
        file: String,
        /// Data set repository.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// The server answered with an error, even after the repetitions, or its answer is not that of
    /// a hub.
    #[error("{endpoint} refused {file}: {reason}")]
    Refused {
        /// Address of the server.
        endpoint: String,
        /// Path of the file inside the repository, or the list of files.
        file: String,
        /// The answer of the server.
        reason: String,
    },
    /// The configured address is not the address of a hub.
    #[error(
        "{endpoint:?} is not the address of a hub; expected an address like \
         https://huggingface.co ({reason})"
    )]
    Endpoint {
        /// The configured address.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The received file is not the expected parquet file.
    #[error("{} is not {title} in parquet: {reason}", path.display())]
    Malformed {
        /// The file in the cache.
        path: PathBuf,
        /// The data set's name in a sentence.
        title: String,
        /// What is wrong, and in which row.
        reason: String,
    },
    /// The content has another SHA-256 than expected. It was not kept.
    #[error("the content for {file} has the SHA-256 {found}, expected {expected}")]
    Checksum {
        /// Name of the file to write, or path of the file inside the repository.
        file: String,
        /// The expected digest.
        expected: String,
        /// The digest of the content.
        found: String,
    },
    /// The text is not a reference to a data set of the hub.
    #[error(
        "{text:?} is not the name of a dataset of the hub; expected OWNER/NAME, \
         OWNER/NAME:SPLIT or OWNER/NAME:CONFIG/SPLIT ({reason})"
    )]
    Reference {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The data set has no such configuration or split, or has several configurations and the
    /// reference names none.
    #[error("the dataset {repository} {problem}; it has {}", found.join(", "))]
    Choice {
        /// Data set repository.
        repository: String,
        /// What is missing.
        problem: String,
        /// The configurations or splits that exist.
        found: Vec<String>,
    },
    /// The hub has no such data set, or has not converted it to parquet.
    #[error("{endpoint} has no dataset {repository}, or no parquet files of it")]
    NoParquet {
        /// Address of the server.
        endpoint: String,
        /// Data set repository.
        repository: String,
    },
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {error}")]
    File {
        /// The failed action: "read", "write" …
        action: &'static str,
        /// Which file or folder, and why.
        error: FileError,
    },
}

impl HubError {
    /// Whether the hub or its files are the cause, so that another source of the pictures can help.
    pub fn concerns_source(&self) -> bool {
        !matches!(
            self,
            Self::Endpoint { .. }
                | Self::Reference { .. }
                | Self::Choice { .. }
                | Self::File { .. }
        )
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { action, error: FileError::io(path)(source) }
    }
}
