//! Why one attempt failed, and what that means for the next one.

use std::io;
use std::time::Duration;

use ureq::http::StatusCode;

use crate::{HubConfig, HubError, RemoteFile};

/// The failure of one attempt.
pub(crate) enum Failure {
    /// An answer with an error status.
    Status { status: StatusCode, message: Option<String>, retry_after: Option<Duration> },
    /// No answer; why, in words.
    Connection(String),
    /// An answer that was cut in its middle; why, in words.
    Cut(String),
    /// Silence, before the content began or in its middle.
    Stalled { begun: bool },
    /// The content is not as long as announced.
    Length { found: u64, announced: u64 },
    /// The content is other than announced, all of it from this attempt or some from an earlier one.
    Digest { found: String, announced: String, resumed: bool },
    /// Nothing that a hub would answer.
    Answer(String),
    /// What no repetition mends.
    Final(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl From<ureq::Error> for Failure {
    /// What prevented an answer.
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(_) => Self::Stalled { begun: false },
            error => Self::Connection(reason(error)),
        }
    }
}

impl Failure {
    /// What stopped the content of an answer of which something has come, or nothing yet.
    pub(crate) fn in_content(error: io::Error, begun: bool) -> Self {
        match ureq::Error::from(error) {
            ureq::Error::Timeout(_) => Self::Stalled { begun },
            error => Self::Cut(reason(error)),
        }
    }

    /// Whether another attempt may succeed.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 416 | 429 | 500 | 502 | 503 | 504)
            }
            Self::Stalled { begun } => *begun,
            Self::Connection(_) | Self::Cut(_) | Self::Length { .. } => true,
            Self::Digest { resumed, .. } => *resumed,
            Self::Answer(_) | Self::Final(_) => false,
        }
    }

    /// The pause the server asked for.
    pub(crate) fn wished_pause(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Status { status, message: Some(message), .. } => {
                format!("it answered {status}: {message}")
            }
            Self::Status { status, .. } => format!("it answered {status}"),
            Self::Stalled { .. } => "nothing came any more".to_owned(),
            Self::Length { found, announced } => format!("{found} of {announced} bytes came"),
            Self::Digest { .. } => "what an earlier attempt left behind was damaged".to_owned(),
            Self::Connection(reason) | Self::Cut(reason) | Self::Answer(reason) => reason.clone(),
            Self::Final(error) => error.to_string(),
        }
    }

    pub(crate) fn into_error(
        self,
        config: &HubConfig,
        file: &RemoteFile,
        attempts: usize,
    ) -> HubError {
        let (endpoint, path, reason) = (config.endpoint.clone(), file.path.clone(), self.reason());
        match self {
            Self::Final(error) => error,
            Self::Digest { found, announced, .. } => {
                HubError::Checksum { file: path, expected: announced, found }
            }
            Self::Length { .. } | Self::Stalled { begun: true } | Self::Cut(_) => {
                HubError::Interrupted { file: path, attempts, reason }
            }
            Self::Stalled { begun: false } => {
                HubError::Stalled { endpoint, after: config.stall_timeout }
            }
            Self::Connection(_) => HubError::Unreachable { endpoint, reason },
            Self::Status { status: StatusCode::NOT_FOUND, .. } => HubError::NotFound {
                endpoint,
                file: path,
                repository: file.repository.clone(),
                revision: file.revision.clone(),
            },
            Self::Status { .. } | Self::Answer(_) => {
                HubError::Refused { endpoint, file: path, reason }
            }
        }
    }
}

/// The cause in words, without the library's "io: ".
fn reason(error: ureq::Error) -> String {
    error.into_io().to_string()
}
