//! Requests to a hub: addresses, redirections, the token, time limits and repetitions.
//!
//! The crate hf-hub 1.0 cannot be used. It follows the redirection that describes a file before it
//! reads the description, and does not report whether a server obeyed a `Range` header.

use std::io::Read;
use std::thread;
use std::time::Duration;

use ureq::config::AutoHeaderValue;
use ureq::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, LOCATION, RANGE,
    RETRY_AFTER,
};
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, BodyReader};

use crate::address::Address;
use crate::failure::Failure;
use crate::proxy::proxy_for;
use crate::{HubConfig, HubError, Progress, RemoteFile, cache};

/// The most redirections of one request.
const MAX_REDIRECTIONS: usize = 10;
/// The longest pause before a repetition.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// The most bytes of a list of files or an error page; far more than any has.
const MAX_TEXT: usize = 64 << 20;
/// Bytes that are read at once.
const BUFFER_SIZE: usize = 1 << 16;

/// What the hub announces about a file.
pub(crate) struct Description {
    /// The ID of the content. For files that the hub keeps outside git, it is the SHA-256.
    pub(crate) etag: String,
    pub(crate) commit: String,
    pub(crate) size: Option<u64>,
}

/// The content of an answer, read in chunks.
pub(crate) struct Body {
    reader: BodyReader<'static>,
    buffer: Vec<u8>,
    length: Option<u64>,
    /// Position of the first byte in the file.
    pub(crate) start: u64,
    started: bool,
}

/// A client of a hub.
pub(crate) struct Client<'a> {
    pub(crate) config: &'a HubConfig,
    endpoint: Address,
    authorization: Option<HeaderValue>,
    agent: Agent,
}

impl<'a> Client<'a> {
    pub(crate) fn new(config: &'a HubConfig) -> Result<Self, HubError> {
        let endpoint = Address::parse(&config.endpoint)
            .map_err(|reason| HubError::Endpoint { endpoint: config.endpoint.clone(), reason })?;
        let bearer = |token: &String| HeaderValue::from_str(&format!("Bearer {token}")).ok();
        let mut authorization = config.token.as_ref().and_then(bearer);
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        let timeout = Some(config.stall_timeout);
        let agent = Agent::config_builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .accept_encoding(AutoHeaderValue::None)
            .http_status_as_error(false)
            .max_redirects(0)
            // Set for each request. The default would read the environment.
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_send_request(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            .build()
            .new_agent();
        Ok(Self { config, endpoint, authorization, agent })
    }

    /// Requests the description of a file.
    pub(crate) fn describe(&self, file: &RemoteFile) -> Result<Description, Failure> {
        let response = self.send(&Method::HEAD, self.file_address(file)?, 0)?;
        if !response.status().is_redirection() {
            check_status(&response)?;
        }
        description(response.status(), response.headers()).ok_or_else(|| {
            Failure::InvalidAnswer("its answer has no valid ETag or commit".to_owned())
        })
    }

    /// Requests a file from the position `from` on. A server may send it from the beginning:
    /// [`Body::start`] is the actual position.
    pub(crate) fn open(&self, file: &RemoteFile, from: u64) -> Result<Body, Failure> {
        let response = require_success(self.send(&Method::GET, self.file_address(file)?, from)?)?;
        let mut start = 0;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            start = header(response.headers(), CONTENT_RANGE.as_str())
                .and_then(first_byte)
                .unwrap_or(from);
        }
        if start != 0 && start != from {
            return Err(Failure::InvalidAnswer(format!(
                "it sent the file from byte {start} on, expected byte {from}"
            )));
        }
        Ok(Body::new(response, start))
    }

    /// Requests the hub's JSON description of a data set.
    pub(crate) fn info(&self, repository: &str, revision: &str) -> Result<Vec<u8>, Failure> {
        let segments = ["api", "datasets"].into_iter().chain(repository.split('/'));
        let address = self.address(segments.chain(["revision", revision]))?;
        Body::new(require_success(self.send(&Method::GET, address, 0)?)?, 0).text()
    }

    /// Repeats `attempt` while its failure is transient and repetitions are left. The error has the
    /// last failure and the number of attempts.
    pub(crate) fn retry<T>(
        &self,
        file: &str,
        on_progress: &mut dyn FnMut(Progress),
        mut attempt: impl FnMut(&mut dyn FnMut(Progress)) -> Result<T, Failure>,
    ) -> Result<T, (Failure, usize)> {
        let mut attempts = 1;
        loop {
            let failure = match attempt(on_progress) {
                Ok(result) => return Ok(result),
                Err(failure) => failure,
            };
            if attempts > self.config.retries || !failure.is_transient() {
                return Err((failure, attempts));
            }
            attempts += 1;
            let reason = failure.reason();
            on_progress(Progress::Retrying { file: file.to_owned(), attempt: attempts, reason });
            thread::sleep(pause(
                self.config.retry_base_delay,
                attempts - 1,
                failure.requested_pause(),
            ));
        }
    }

    fn file_address(&self, file: &RemoteFile) -> Result<Address, Failure> {
        let repository = std::iter::once("datasets").chain(file.repository.split('/'));
        self.address(repository.chain(["resolve", &file.revision]).chain(file.path.split('/')))
    }

    fn address<'s>(&self, segments: impl Iterator<Item = &'s str>) -> Result<Address, Failure> {
        self.endpoint.append(segments).map_err(|reason| {
            HubError::Endpoint { endpoint: self.config.endpoint.clone(), reason }.into()
        })
    }

    /// Sends a request and follows redirections, except one that describes the requested file.
    fn send(
        &self,
        method: &Method,
        mut address: Address,
        from: u64,
    ) -> Result<Response<ureq::Body>, Failure> {
        for _ in 0..=MAX_REDIRECTIONS {
            let mut request = Request::builder().method(method).uri(address.uri());
            // The token is for the hub, not for the storage server to which it redirects.
            if let Some(value) = &self.authorization
                && address.has_same_origin(&self.endpoint)
            {
                request = request.header(AUTHORIZATION, value);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let request = request.body(()).map_err(ureq::Error::from)?;
            let proxy = proxy_for(self.config, &address).map_err(Failure::Connection)?;
            let request = self.agent.configure_request(request).proxy(proxy).build();
            let response = self.agent.run(request)?;
            let (status, headers) = (response.status(), response.headers());
            let is_description = *method == Method::HEAD && description(status, headers).is_some();
            let target =
                header(headers, LOCATION.as_str()).and_then(|target| address.resolve(target));
            match target {
                Some(target) if status.is_redirection() && !is_description => address = target,
                _ => return Ok(response),
            }
        }
        Err(Failure::InvalidAnswer(format!("it redirected more than {MAX_REDIRECTIONS} times")))
    }
}

impl Body {
    fn new(response: Response<ureq::Body>, start: u64) -> Self {
        let length = header(response.headers(), CONTENT_LENGTH.as_str())
            .and_then(|length| length.parse().ok());
        let reader = response.into_body().into_reader();
        Self { reader, buffer: vec![0; BUFFER_SIZE], length, start, started: false }
    }

    /// The number of bytes that the server announced, if any.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes; empty at the end.
    pub(crate) fn next(&mut self) -> Result<&[u8], Failure> {
        let read = self.reader.read(&mut self.buffer);
        let count = read.map_err(|error| Failure::in_content(error, self.started))?;
        self.started = true;
        Ok(&self.buffer[..count])
    }

    fn text(mut self) -> Result<Vec<u8>, Failure> {
        let mut text = Vec::new();
        loop {
            match self.next()? {
                [] => return Ok(text),
                bytes => text.extend_from_slice(bytes),
            }
            if text.len() > MAX_TEXT {
                return Err(Failure::InvalidAnswer(format!(
                    "its answer is longer than {MAX_TEXT} bytes"
                )));
            }
        }
    }
}

/// Turns an error status into a failure, with the message in the headers or the JSON of the answer.
fn require_success(response: Response<ureq::Body>) -> Result<Response<ureq::Body>, Failure> {
    let Err(mut failure) = check_status(&response) else { return Ok(response) };
    if let Failure::Status { message: message @ None, .. } = &mut failure {
        let page = Body::new(response, 0).text().unwrap_or_default();
        let answer = serde_json::from_slice::<serde_json::Value>(&page).unwrap_or_default();
        *message = answer["error"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    }
    Err(failure)
}

/// Turns an error status into a failure, with the message in the headers.
fn check_status(response: &Response<ureq::Body>) -> Result<(), Failure> {
    if response.status().is_success() {
        return Ok(());
    }
    let message = header(response.headers(), "x-error-message").filter(|text| !text.is_empty());
    let seconds =
        header(response.headers(), RETRY_AFTER.as_str()).and_then(|value| value.parse().ok());
    Err(Failure::Status {
        status: response.status(),
        message: message.map(str::to_owned),
        retry_after: seconds.map(Duration::from_secs),
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The description of a file in the headers of the answer or of the redirection to the file.
fn description(status: StatusCode, headers: &HeaderMap) -> Option<Description> {
    let etag = header(headers, "x-linked-etag").or_else(|| header(headers, ETAG.as_str()))?;
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let commit = header(headers, "x-repo-commit")?;
    // The Content-Length of a redirection is that of its own text.
    let length = if status.is_success() { header(headers, CONTENT_LENGTH.as_str()) } else { None };
    let size = header(headers, "x-linked-size").or(length);
    // Both become file names.
    (cache::is_name(etag) && cache::is_name(commit)).then(|| Description {
        etag: etag.to_owned(),
        commit: commit.to_owned(),
        size: size.and_then(|size| size.parse().ok()),
    })
}

/// The first position in `bytes 100-199/200`.
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// The pause before repetition `n`, counted from 1.
fn pause(base: Duration, n: usize, requested: Option<Duration>) -> Duration {
    let doubled = base.saturating_mul(1 << n.min(6));
    doubled.max(requested.unwrap_or_default()).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_respect_the_requested_pause_up_to_the_limit() {
        let base = Duration::from_millis(200);
        let pauses: Vec<_> = (1..=4).map(|n| pause(base, n, None).as_millis()).collect();
        assert_eq!(pauses, [400, 800, 1600, 3200]);
        assert_eq!(pause(base, 1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(base, 4, Some(Duration::from_secs(1))), Duration::from_millis(3200));
        assert_eq!(pause(base, 1, Some(Duration::from_hours(9))), Duration::from_mins(1));
    }

    #[test]
    fn names_from_a_server_cannot_leave_the_cache() {
        let mut headers = HeaderMap::new();
        headers.insert("x-repo-commit", HeaderValue::from_static("c0ffee"));
        for (etag, valid) in
            [("\"abc\"", true), ("W/\"abc\"", true), ("\"../abc\"", false), ("\"\"", false)]
        {
            headers.insert(ETAG, HeaderValue::from_static(etag));
            assert_eq!(description(StatusCode::OK, &headers).is_some(), valid, "{etag}");
        }
    }
}
