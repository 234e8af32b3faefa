//! Why one attempt failed, and what that means for the next one.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;

use super::{HubConfig, HubError, RemoteFile};

/// The failure of one attempt.
pub(super) enum Failure {
    /// An answer with an error status.
    Status { status: StatusCode, message: Option<String>, retry_after: Option<Duration> },
    /// No answer, or one cut in its middle.
    Request(reqwest::Error),
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

impl Failure {
    /// Whether another attempt may succeed.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 416 | 429 | 500 | 502 | 503 | 504)
            }
            Self::Request(error) => !error.is_builder(),
            Self::Stalled { begun } => *begun,
            Self::Length { .. } => true,
            Self::Digest { resumed, .. } => *resumed,
            Self::Answer(_) | Self::Final(_) => false,
        }
    }

    /// The pause the server asked for.
    pub(super) fn wished_pause(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(super) fn reason(&self) -> String {
        match self {
            Self::Status { status, message: Some(message), .. } => format!("it answered {status}: {message}"),
            Self::Status { status, .. } => format!("it answered {status}"),
            Self::Request(error) => innermost(error),
            Self::Stalled { .. } => "nothing came any more".to_owned(),
            Self::Length { found, announced } => format!("{found} of {announced} bytes came"),
            Self::Digest { .. } => "what an earlier attempt left behind was damaged".to_owned(),
            Self::Answer(reason) => reason.clone(),
            Self::Final(error) => error.to_string(),
        }
    }

    pub(super) fn into_error(self, config: &HubConfig, file: &RemoteFile, attempts: usize) -> HubError {
        let (endpoint, path, reason) = (config.endpoint.clone(), file.path.clone(), self.reason());
        match self {
            Self::Final(error) => error,
            Self::Digest { found, announced, .. } => {
                HubError::Checksum { file: path, expected: announced, found }
            }
            Self::Length { .. } | Self::Stalled { begun: true } => {
                HubError::Interrupted { file: path, attempts, reason }
            }
            Self::Stalled { begun: false } => HubError::Stalled { endpoint, after: config.stall_timeout },
            Self::Request(error) if error.is_builder() => HubError::Endpoint { endpoint, reason },
            Self::Request(error) if error.is_body() || error.is_decode() => {
                HubError::Interrupted { file: path, attempts, reason }
            }
            Self::Request(_) => HubError::Unreachable { endpoint, reason },
            Self::Status { status: StatusCode::NOT_FOUND, .. } => HubError::NotFound {
                endpoint,
                file: path,
                repository: file.repository.clone(),
                revision: file.revision.clone(),
            },
            Self::Status { .. } | Self::Answer(_) => HubError::Refused { endpoint, file: path, reason },
        }
    }
}

/// The cause at the bottom of the chain; the layers above it only say that a request failed.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
