//! Requests to a hub: addresses, redirections, the token, patience and repetition.
//!
//! hf-hub 1.0 follows the redirection that describes a file before it reads the description, and does not tell
//! whether a server obeyed a `Range` header; so requests are made here.

use std::future::Future;
use std::thread;
use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::runtime::Runtime;

use super::failure::Failure;
use super::{HubConfig, HubError, Progress, RemoteFile, cache};

const REDIRECTIONS: usize = 10;
/// As long as anyone wants to watch a download wait.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Far more than any list of files or error page needs.
const LONGEST_TEXT: usize = 64 << 20;

/// What the hub says of a file before it sends it.
pub(super) struct Description {
    /// Names the content; for files kept outside git it is their SHA-256.
    pub(super) etag: String,
    pub(super) commit: String,
    pub(super) size: Option<u64>,
}

/// Content on its way.
pub(super) struct Body {
    response: Response,
    /// The position in the file of its first byte.
    pub(super) start: u64,
    begun: bool,
}

/// A connection to a hub.
pub(super) struct Client<'a> {
    pub(super) config: &'a HubConfig,
    endpoint: Url,
    authorization: Option<HeaderValue>,
    http: reqwest::Client,
    // Always there until the drop.
    runtime: Option<Runtime>,
}

impl<'a> Client<'a> {
    pub(super) fn new(config: &'a HubConfig) -> Result<Self, HubError> {
        let endpoint = parse_endpoint(&config.endpoint)
            .map_err(|reason| HubError::Endpoint { endpoint: config.endpoint.clone(), reason })?;
        let bearer = |token: &String| HeaderValue::from_str(&format!("Bearer {token}")).ok();
        let mut authorization = config.token.as_ref().and_then(bearer);
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| HubError::Unreachable {
                endpoint: config.endpoint.clone(),
                reason: super::failure::innermost(&error),
            })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| HubError::io("use the network for", &config.cache_dir, error))?;
        Ok(Self { config, endpoint, authorization, http, runtime: Some(runtime) })
    }

    /// Asks what a file is, without its content.
    pub(super) fn describe(&self, file: &RemoteFile) -> Result<Description, Failure> {
        let response = self.wait(self.send(Method::HEAD, self.file_address(file), 0))?;
        if !response.status().is_redirection() {
            accept(&response, String::new)?;
        }
        description(response.status(), response.headers())
            .ok_or_else(|| Failure::Answer("its answer lacks the ETag or the commit of a hub".to_owned()))
    }

    /// Asks for a file from the position `from` on; see [`Body::start`] for what the server made of that.
    pub(super) fn open(&self, file: &RemoteFile, from: u64) -> Result<Body, Failure> {
        let mut response = self.wait(self.send(Method::GET, self.file_address(file), from))?;
        self.check(&mut response)?;
        let mut start = 0;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            start = header(response.headers(), CONTENT_RANGE.as_str()).and_then(first_byte).unwrap_or(from);
        }
        if start != 0 && start != from {
            return Err(Failure::Answer(format!(
                "it sent bytes from {start} on, asked for those from {from} on"
            )));
        }
        Ok(Body { response, start, begun: false })
    }

    /// The next bytes, if there are more.
    pub(super) fn next(&self, body: &mut Body) -> Result<Option<impl AsRef<[u8]> + use<>>, Failure> {
        let begun = body.begun;
        let chunk = self.wait(async {
            let chunk = self.patiently(body.response.chunk()).await;
            chunk.map_err(|failure| {
                if matches!(failure, Failure::Stalled { .. }) { Failure::Stalled { begun } } else { failure }
            })
        })?;
        body.begun = true;
        Ok(chunk)
    }

    /// The answer of the hub's own interface about a dataset.
    pub(super) fn info(&self, repository: &str, revision: &str) -> Result<Vec<u8>, Failure> {
        let mut address = self.endpoint.clone();
        if let Ok(mut path) = address.path_segments_mut() {
            path.pop_if_empty().extend(["api", "datasets"]).extend(repository.split('/'));
            path.extend(["revision", revision]);
        }
        let mut response = self.wait(self.send(Method::GET, address, 0))?;
        self.check(&mut response)?;
        self.text(&mut response)
    }

    /// Repeats `attempt` while it fails in a way that may pass.
    pub(super) fn persist<T>(
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
            thread::sleep(pause(self.config.retry_base_delay, attempts - 1, failure.wished_pause()));
        }
    }

    fn file_address(&self, file: &RemoteFile) -> Url {
        let mut address = self.endpoint.clone();
        // Only an address like mailto: has no path, and `parse_endpoint` lets none of them through.
        if let Ok(mut path) = address.path_segments_mut() {
            path.pop_if_empty().push("datasets").extend(file.repository.split('/'));
            path.extend(["resolve", &file.revision]).extend(file.path.split('/'));
        }
        address
    }

    /// Sends a request and follows redirections, but not one that describes the file asked for.
    async fn send(&self, method: Method, mut address: Url, from: u64) -> Result<Response, Failure> {
        for _ in 0..=REDIRECTIONS {
            let mut request = self.http.request(method.clone(), address.clone());
            // The token is for the hub and not for the store to which it redirects.
            if let Some(value) = &self.authorization
                && address.origin() == self.endpoint.origin()
            {
                request = request.header(AUTHORIZATION, value);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = self.patiently(request.send()).await?;
            let (status, headers) = (response.status(), response.headers());
            let answers = method == Method::HEAD && description(status, headers).is_some();
            let target = header(headers, LOCATION.as_str()).and_then(|target| address.join(target).ok());
            match target {
                Some(target) if status.is_redirection() && !answers => address = target,
                _ => return Ok(response),
            }
        }
        Err(Failure::Answer(format!("it redirected more than {REDIRECTIONS} times")))
    }

    async fn patiently<T>(&self, work: impl Future<Output = reqwest::Result<T>>) -> Result<T, Failure> {
        match tokio::time::timeout(self.config.stall_timeout, work).await {
            Ok(result) => result.map_err(Failure::Request),
            Err(_) => Err(Failure::Stalled { begun: false }),
        }
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        // Taken out by the drop alone.
        self.runtime.as_ref().expect("the runtime lives as long as the client").block_on(work)
    }

    /// Turns an error status into a failure with what the server says about it.
    fn check(&self, response: &mut Response) -> Result<(), Failure> {
        if response.status().is_success() {
            return Ok(());
        }
        let page = self.text(response).unwrap_or_default();
        accept(response, || {
            let answer = serde_json::from_slice::<serde_json::Value>(&page).unwrap_or_default();
            answer["error"].as_str().unwrap_or_default().to_owned()
        })
    }

    fn text(&self, response: &mut Response) -> Result<Vec<u8>, Failure> {
        let mut text = Vec::new();
        while let Some(chunk) = self.wait(self.patiently(response.chunk()))? {
            text.extend_from_slice(&chunk);
            if text.len() > LONGEST_TEXT {
                return Err(Failure::Answer("its answer does not end".to_owned()));
            }
        }
        Ok(text)
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        // Waiting instead would wait for a name server that may never answer.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Body {
    /// How many bytes are to come, if the server says so.
    pub(super) fn length(&self) -> Option<u64> {
        self.response.content_length()
    }
}

fn parse_endpoint(text: &str) -> Result<Url, String> {
    let endpoint = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(endpoint.scheme(), "http" | "https") {
        return Err(format!("the scheme is {}", endpoint.scheme()));
    }
    Ok(endpoint)
}

/// Turns an error status into a failure; `page` gives what the body says, should the headers say nothing.
fn accept(response: &Response, page: impl FnOnce() -> String) -> Result<(), Failure> {
    if response.status().is_success() {
        return Ok(());
    }
    let said = header(response.headers(), "x-error-message").map_or_else(page, str::to_owned);
    let seconds = header(response.headers(), RETRY_AFTER.as_str()).and_then(|value| value.parse().ok());
    Err(Failure::Status {
        status: response.status(),
        message: Some(said).filter(|said| !said.is_empty()),
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
        for (etag, good) in [("\"abc\"", true), ("W/\"abc\"", true), ("\"../abc\"", false), ("\"\"", false)] {
            headers.insert(ETAG, HeaderValue::from_static(etag));
            assert_eq!(description(StatusCode::OK, &headers).is_some(), good, "{etag}");
        }
    }
}
