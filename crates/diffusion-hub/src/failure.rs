//! Why one attempt failed, and whether it should be repeated.

use std::io;
use std::time::Duration;

use ureq::http::StatusCode;

use crate::{HubConfig, HubError, RemoteFile};

/// Why one attempt failed.
pub(crate) enum Failure {
    /// An answer with an error status.
    Status { status: StatusCode, message: Option<String>, retry_after: Option<Duration> },
    /// The connection failed, with the reason.
    Connection(String),
    /// The content was interrupted, with the reason.
    Cut(String),
    /// The server stopped sending: after the content had `started`, or before.
    Stalled { started: bool },
    /// The content has another length than announced.
    Length { found: u64, announced: u64 },
    /// The content has another digest than announced. `resumed`: a part of it is from an earlier
    /// attempt.
    Digest { found: String, announced: String, resumed: bool },
    /// An answer that does not come from a hub, with the reason.
    InvalidAnswer(String),
    /// An error that a repetition cannot remove.
    Final(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(_) => Self::Stalled { started: false },
            error => Self::Connection(reason(error)),
        }
    }
}

impl Failure {
    /// The failure to read the content of an answer. `started`: some of it has been read.
    pub(crate) fn in_content(error: io::Error, started: bool) -> Self {
        match ureq::Error::from(error) {
            ureq::Error::Timeout(_) => Self::Stalled { started },
            error => Self::Cut(reason(error)),
        }
    }

    /// Whether another attempt may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 416 | 429 | 500 | 502 | 503 | 504)
            }
            Self::Stalled { started } => *started,
            Self::Connection(_) | Self::Cut(_) | Self::Length { .. } => true,
            Self::Digest { resumed, .. } => *resumed,
            Self::InvalidAnswer(_) | Self::Final(_) => false,
        }
    }

    /// The pause that the server requests.
    pub(crate) fn requested_pause(&self) -> Option<Duration> {
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
            Self::Stalled { .. } => "no more data arrived".to_owned(),
            Self::Length { found, announced } => {
                format!("received {found} of {announced} bytes")
            }
            Self::Digest { .. } => "the partial file of an earlier attempt was damaged".to_owned(),
            Self::Connection(reason) | Self::Cut(reason) | Self::InvalidAnswer(reason) => {
                reason.clone()
            }
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
            Self::Length { .. } | Self::Stalled { started: true } | Self::Cut(_) => {
                HubError::Interrupted { file: path, attempts, reason }
            }
            Self::Stalled { started: false } => {
                HubError::Stalled { endpoint, after: config.stall_timeout }
            }
            Self::Connection(_) => HubError::Unreachable { endpoint, reason },
            Self::Status { status: StatusCode::NOT_FOUND, .. } => HubError::NotFound {
                endpoint,
                file: path,
                repository: file.repository.clone(),
                revision: file.revision.clone(),
            },
            Self::Status { .. } | Self::InvalidAnswer(_) => {
                HubError::Refused { endpoint, file: path, reason }
            }
        }
    }
}

/// The text of the error, without the library's prefix "io: ".
fn reason(error: ureq::Error) -> String {
    error.into_io().to_string()
}
