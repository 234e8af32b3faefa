//! Requests to a hub: addresses, redirections, the token, patience and repetition.
//!
//! hf-hub 1.0 follows the redirection that describes a file before it reads the description, and does not tell
//! whether a server obeyed a `Range` header; so requests are made here.

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

const REDIRECTIONS: usize = 10;
/// As long as anyone wants to watch a download wait.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Far more than any list of files or error page needs.
const LONGEST_TEXT: usize = 64 << 20;
/// Bytes that are read at once.
const BUFFER: usize = 1 << 16;

/// What the hub says of a file before it sends it.
pub(crate) struct Description {
    /// Names the content; for files kept outside git it is their SHA-256.
    pub(crate) etag: String,
    pub(crate) commit: String,
    pub(crate) size: Option<u64>,
}

/// Content on its way.
pub(crate) struct Body {
    reader: BodyReader<'static>,
    buffer: Vec<u8>,
    length: Option<u64>,
    /// The position in the file of its first byte.
    pub(crate) start: u64,
    begun: bool,
}

/// A connection to a hub.
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
        let patience = Some(config.stall_timeout);
        let agent = Agent::config_builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .accept_encoding(AutoHeaderValue::None)
            .http_status_as_error(false)
            .max_redirects(0)
            // Chosen for each request: the usual one is read from the environment.
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .timeout_resolve(patience)
            .timeout_connect(patience)
            .timeout_send_request(patience)
            .timeout_recv_response(patience)
            .timeout_per_read(patience)
            .build()
            .new_agent();
        Ok(Self { config, endpoint, authorization, agent })
    }

    /// Asks what a file is, without its content.
    pub(crate) fn describe(&self, file: &RemoteFile) -> Result<Description, Failure> {
        let response = self.send(&Method::HEAD, self.file_address(file)?, 0)?;
        if !response.status().is_redirection() {
            accept(&response)?;
        }
        description(response.status(), response.headers()).ok_or_else(|| {
            Failure::Answer("its answer lacks the ETag or the commit of a hub".to_owned())
        })
    }

    /// Asks for a file from the position `from` on; see [`Body::start`] for what the server made of that.
    pub(crate) fn open(&self, file: &RemoteFile, from: u64) -> Result<Body, Failure> {
        let response = accepted(self.send(&Method::GET, self.file_address(file)?, from)?)?;
        let mut start = 0;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            start = header(response.headers(), CONTENT_RANGE.as_str())
                .and_then(first_byte)
                .unwrap_or(from);
        }
        if start != 0 && start != from {
            return Err(Failure::Answer(format!(
                "it sent bytes from {start} on, asked for those from {from} on"
            )));
        }
        Ok(Body::new(response, start))
    }

    /// The answer of the hub's own interface about a dataset.
    pub(crate) fn info(&self, repository: &str, revision: &str) -> Result<Vec<u8>, Failure> {
        let parts = ["api", "datasets"].into_iter().chain(repository.split('/'));
        let address = self.address(parts.chain(["revision", revision]))?;
        Body::new(accepted(self.send(&Method::GET, address, 0)?)?, 0).text()
    }

    /// Repeats `attempt` while it fails in a way that may pass.
    pub(crate) fn persist<T>(
        &self,
        file: &str,
        on_progress: &mut dyn FnMut(Progress),
        mut attempt: impl FnMut(&mut dyn FnMut(Progress)) -> Result<T, Failure>,
    ) -> Result<T, (Failure, usize)> {
        let mut attempts = 1;
        loop {
            let failure = match attempt(on_progress) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if attempts > self.config.retries || !failure.may_pass() {
                return Err((failure, attempts));
            }
            attempts += 1;
            let reason = failure.reason();
            on_progress(Progress::Retrying { file: file.to_owned(), attempt: attempts, reason });
            thread::sleep(pause(
                self.config.retry_base_delay,
                attempts - 1,
                failure.wished_pause(),
            ));
        }
    }

    fn file_address(&self, file: &RemoteFile) -> Result<Address, Failure> {
        let repository = std::iter::once("datasets").chain(file.repository.split('/'));
        self.address(repository.chain(["resolve", &file.revision]).chain(file.path.split('/')))
    }

    fn address<'s>(&self, parts: impl Iterator<Item = &'s str>) -> Result<Address, Failure> {
        self.endpoint.below(parts).map_err(|reason| {
            HubError::Endpoint { endpoint: self.config.endpoint.clone(), reason }.into()
        })
    }

    /// Sends a request and follows redirections, but not one that describes the file asked for.
    fn send(
        &self,
        method: &Method,
        mut address: Address,
        from: u64,
    ) -> Result<Response<ureq::Body>, Failure> {
        for _ in 0..=REDIRECTIONS {
            let mut request = Request::builder().method(method).uri(address.uri());
            // The token is for the hub and not for the store to which it redirects.
            if let Some(value) = &self.authorization
                && address.has_origin_of(&self.endpoint)
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
            let answers = *method == Method::HEAD && description(status, headers).is_some();
            let target = header(headers, LOCATION.as_str()).and_then(|target| address.join(target));
            match target {
                Some(target) if status.is_redirection() && !answers => address = target,
                _ => return Ok(response),
            }
        }
        Err(Failure::Answer(format!("it redirected more than {REDIRECTIONS} times")))
    }
}

impl Body {
    fn new(response: Response<ureq::Body>, start: u64) -> Self {
        let length = header(response.headers(), CONTENT_LENGTH.as_str())
            .and_then(|length| length.parse().ok());
        let reader = response.into_body().into_reader();
        Self { reader, buffer: vec![0; BUFFER], length, start, begun: false }
    }

    /// How many bytes are to come, if the server says so.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes; none at the end.
    pub(crate) fn next(&mut self) -> Result<&[u8], Failure> {
        let read = self.reader.read(&mut self.buffer);
        let count = read.map_err(|error| Failure::in_content(error, self.begun))?;
        self.begun = true;
        Ok(&self.buffer[..count])
    }

    fn text(mut self) -> Result<Vec<u8>, Failure> {
        let mut text = Vec::new();
        loop {
            match self.next()? {
                [] => return Ok(text),
                bytes => text.extend_from_slice(bytes),
            }
            if text.len() > LONGEST_TEXT {
                return Err(Failure::Answer("its answer does not end".to_owned()));
            }
        }
    }
}

/// Turns an error status into a failure with what the server says about it.
fn accepted(response: Response<ureq::Body>) -> Result<Response<ureq::Body>, Failure> {
    let Err(mut failure) = accept(&response) else { return Ok(response) };
    if let Failure::Status { message: message @ None, .. } = &mut failure {
        let page = Body::new(response, 0).text().unwrap_or_default();
        let answer = serde_json::from_slice::<serde_json::Value>(&page).unwrap_or_default();
        *message = answer["error"].as_str().filter(|said| !said.is_empty()).map(str::to_owned);
    }
    Err(failure)
}

/// Turns an error status into a failure with what the headers say about it.
fn accept(response: &Response<ureq::Body>) -> Result<(), Failure> {
    if response.status().is_success() {
        return Ok(());
    }
    let said = header(response.headers(), "x-error-message").filter(|said| !said.is_empty());
    let seconds =
        header(response.headers(), RETRY_AFTER.as_str()).and_then(|value| value.parse().ok());
    Err(Failure::Status {
        status: response.status(),
        message: said.map(str::to_owned),
        retry_after: seconds.map(Duration::from_secs),
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Reads what a hub says of a file, either with the file or with the redirection to it.
fn description(status: StatusCode, headers: &HeaderMap) -> Option<Description> {
    let etag = header(headers, "x-linked-etag").or_else(|| header(headers, ETAG.as_str()))?;
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let commit = header(headers, "x-repo-commit")?;
    // The length of a redirection is that of its own text.
    let length = if status.is_success() { header(headers, CONTENT_LENGTH.as_str()) } else { None };
    let size = header(headers, "x-linked-size").or(length);
    // Both become names of files.
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

/// How long to wait before repetition `n`, counted from 1.
fn pause(base: Duration, n: usize, wished: Option<Duration>) -> Duration {
    let doubled = base.saturating_mul(1 << n.min(6));
    doubled.max(wished.unwrap_or_default()).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_grant_what_the_server_wishes_within_reason() {
        let base = Duration::from_millis(200);
        let pauses: Vec<_> = (1..=4).map(|n| pause(base, n, None).as_millis()).collect();
        assert_eq!(pauses, [400, 800, 1600, 3200]);
        assert_eq!(pause(base, 1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(base, 4, Some(Duration::from_secs(1))), Duration::from_millis(3200));
        assert_eq!(pause(base, 1, Some(Duration::from_hours(9))), Duration::from_mins(1));
    }

    #[test]
    fn names_that_would_leave_the_cache_are_not_taken_from_a_server() {
        let mut headers = HeaderMap::new();
        headers.insert("x-repo-commit", HeaderValue::from_static("c0ffee"));
        for (etag, good) in
            [("\"abc\"", true), ("W/\"abc\"", true), ("\"../abc\"", false), ("\"\"", false)]
        {
            headers.insert(ETAG, HeaderValue::from_static(etag));
            assert_eq!(description(StatusCode::OK, &headers).is_some(), good, "{etag}");
        }
    }
}
