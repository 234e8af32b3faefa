//! What can go wrong, each as one sentence.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diffusion_files::FileError;

/// Why something could not be had from the hub.
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
        /// Path inside the repository, or what else was wanted.
        file: String,
    },
    /// The transfer broke off, every time; what came is kept, and the next attempt goes on from there.
    #[error("the transfer of {file} broke off (attempt {attempts}): {reason}")]
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
        /// The server asked.
        endpoint: String,
        /// Path of the file inside the repository.
        file: String,
        /// Dataset repository.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// The server answered with an error, still after the repetitions, or with something no hub answers.
    #[error("{endpoint} refused {file}: {reason}")]
    Refused {
        /// The server asked.
        endpoint: String,
        /// Path of the file inside the repository, or the list of files.
        file: String,
        /// What the server said.
        reason: String,
    },
    /// The configuration cannot work.
    #[error(
        "{endpoint:?} is not the address of a hub, which looks like https://huggingface.co ({reason})"
    )]
    Endpoint {
        /// What was configured.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes that came are not the parquet file that was expected.
    #[error("{} is not {title} in parquet: {reason}", path.display())]
    Malformed {
        /// The file in the cache.
        path: PathBuf,
        /// The dataset's name in prose.
        title: String,
        /// What was found instead, and in which row.
        reason: String,
    },
    /// The bytes that came are others than the announced or known ones; they were not kept.
    #[error("the content for {file} has the SHA-256 {found}, expected {expected}")]
    Checksum {
        /// Name of the file to write, or path of the file inside the repository.
        file: String,
        /// The digest it should have.
        expected: String,
        /// The digest it has.
        found: String,
    },
    /// A text that names no dataset of the hub.
    #[error(
        "{text:?} names no dataset of the hub, written OWNER/NAME, OWNER/NAME:SPLIT or OWNER/NAME:CONFIG/SPLIT ({reason})"
    )]
    Reference {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The dataset has no such configuration or split, or the configuration has to be named.
    #[error("the dataset {repository} {problem}; it has {}", found.join(", "))]
    Choice {
        /// Dataset repository.
        repository: String,
        /// What is missing.
        problem: String,
        /// What could be chosen.
        found: Vec<String>,
    },
    /// There is no such dataset, or the hub has not converted it to parquet.
    #[error("{endpoint} knows no dataset {repository}, or keeps no parquet files of it")]
    NoParquet {
        /// The server asked.
        endpoint: String,
        /// Dataset repository.
        repository: String,
    },
    /// A file or folder that cannot be read or written.
    #[error("cannot {action} {error}")]
    File {
        /// What was being done: "read", "write" …
        action: &'static str,
        /// To which file or folder, and why it failed.
        error: FileError,
    },
}

impl HubError {
    /// Whether it was this source that failed, so that another source of the pictures helps.
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
