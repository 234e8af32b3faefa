//! What can go wrong, each as one sentence.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why MNIST could not be downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// No connection to the server.
    #[error("{endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// The server asked.
        endpoint: String,
        /// The innermost cause.
        reason: String,
    },
    /// A server that says nothing.
    #[error("{endpoint} has sent nothing for {seconds} seconds", seconds = after.as_secs_f32())]
    Stalled {
        /// The server asked.
        endpoint: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Offline by the caller's wish, and not in the cache.
    #[error("downloads are switched off and the hub's cache does not hold {file}")]
    Offline {
        /// Path of the parquet file inside the repository.
        file: String,
    },
    /// The transfer broke off, every time.
    #[error("the transfer of {file} broke off (attempt {attempts}): {reason}")]
    Interrupted {
        /// Path of the parquet file inside the repository.
        file: String,
        /// Attempts made.
        attempts: usize,
        /// The cause of the last failure.
        reason: String,
    },
    /// The server has no such file, repository or revision.
    #[error("{endpoint} has no file {file} in the dataset {repository} at {revision}")]
    NotFound {
        /// The server asked.
        endpoint: String,
        /// Path of the parquet file inside the repository.
        file: String,
        /// Dataset repository.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// The server answered with an error, still after the repetitions.
    #[error("{endpoint} refused {file}: {reason}")]
    Refused {
        /// The server asked.
        endpoint: String,
        /// Path of the parquet file inside the repository.
        file: String,
        /// What the server said.
        reason: String,
    },
    /// The configuration cannot work.
    #[error("{endpoint:?} is not the address of a hub, which looks like https://huggingface.co ({reason})")]
    Endpoint {
        /// What was configured.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another program holds the cache's lock.
    #[error("another program has been downloading the same file for too long (lock {})", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The bytes that came are not a parquet file of digits.
    #[error("{} is not MNIST in parquet: {reason}", path.display())]
    Malformed {
        /// The file in the cache.
        path: PathBuf,
        /// What was found instead, and in which row.
        reason: String,
    },
    /// The digits that came are others than MNIST's.
    #[error("the content for {file} has the SHA-256 {found}, expected {expected}")]
    Checksum {
        /// Name of the IDX file.
        file: String,
        /// The digest it should have.
        expected: String,
        /// The digest it has.
        found: String,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done: "read", "write" …
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl HubError {
    /// Whether it was this source that failed, so that another source of the digits helps.
    pub fn concerns_source(&self) -> bool {
        !matches!(self, Self::Endpoint { .. } | Self::Locked { .. } | Self::Io { .. })
    }

    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}
