//! One parquet file from the hub into its cache: hf-hub, with patience, repetition and length checks around it.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClient, HFError, split_id};

use super::{HubConfig, HubError, Progress, Split};

/// Stands for "no token". Given none, hf-hub would look for one in the environment and in the user's files; one
/// that no HTTP header can carry it leaves out of its requests.
const NO_TOKEN: &str = "\n";

/// Why one attempt failed.
enum Failure {
    Hub(HFError),
    Stalled,
    /// The file in the cache is not as long as the server had announced.
    Length {
        found: u64,
        announced: u64,
    },
    Runtime(std::io::Error),
}

/// The split's parquet file, if the cache holds one; makes no request.
pub(super) fn cached(config: &HubConfig, split: &Split) -> Result<Option<PathBuf>, HubError> {
    match attempt(config, split, true, &mut |_| {}) {
        Ok(path) => Ok(Some(path)),
        // EntryNotFound: an earlier 404 has been noted in the cache; the server may know better by now.
        Err(Failure::Hub(HFError::LocalEntryNotFound { .. } | HFError::EntryNotFound { .. })) => Ok(None),
        Err(failure) => Err(failure.into_error(config, split, 1)),
    }
}

/// Downloads the split's parquet file into the cache, whatever the cache holds under that name.
pub(super) fn fetch(
    config: &HubConfig,
    split: &Split,
    received: &mut u64,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, HubError> {
    let mut attempts = 1;
    loop {
        let (mut announced, mut done) = (0, 0);
        let outcome = attempt(config, split, false, &mut |event| {
            match event {
                Event::Announced(total) => announced = total,
                Event::Here(bytes) => done = bytes,
            }
            on_progress(Progress::Downloading { file: split.parquet.clone(), done, total: announced });
        });
        *received += done;
        let failure = match outcome.and_then(|path| check_length(path, announced)) {
            Ok(path) => return Ok(path),
            Err(failure) => failure,
        };
        if attempts > config.retries || !failure.is_interruption(done) {
            return Err(failure.into_error(config, split, attempts));
        }
        attempts += 1;
        on_progress(Progress::Retrying {
            file: split.parquet.clone(),
            attempt: attempts,
            reason: failure.reason(),
        });
        // 64 times the base is as long as anyone wants to watch a download wait.
        thread::sleep(config.retry_base_delay * (1 << attempts.min(6)));
    }
}

/// hf-hub 1.0 does not look at the status of the answer it stores, nor at its length.
fn check_length(path: PathBuf, announced: u64) -> Result<PathBuf, Failure> {
    let found = fs::metadata(&path).map_err(|error| Failure::Hub(HFError::Io(error)))?.len();
    if announced == 0 || found == announced {
        return Ok(path);
    }
    evict(&path);
    Err(Failure::Length { found, announced })
}

/// Removes a file that turned out to be bad from the cache, which other programs trust too.
pub(super) fn evict(path: &Path) {
    // Best effort: what stays behind is found bad again, and every download here replaces it.
    if let Ok(blob) = fs::canonicalize(path) {
        let _ = fs::remove_file(blob);
    }
    let _ = fs::remove_file(path);
}

/// What hf-hub says while it works.
enum Event {
    Announced(u64),
    Here(u64),
}

/// One call of hf-hub, given up after [`HubConfig::stall_timeout`] without a new byte.
///
/// hf-hub is asynchronous. It runs on a thread of its own, so that the caller may have a runtime or not, and so
/// that events reach `on_event` on the caller's thread.
fn attempt(
    config: &HubConfig,
    split: &Split,
    cache_only: bool,
    on_event: &mut dyn FnMut(Event),
) -> Result<PathBuf, Failure> {
    let (events, inbox) = mpsc::channel();
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Failure::Runtime)?;
            let result = runtime.block_on(call(config, split, cache_only, events));
            // Dropping it would wait for a lock or a name server that may never answer.
            runtime.shutdown_background();
            result
        });
        for event in inbox {
            on_event(event);
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn call(
    config: &HubConfig,
    split: &Split,
    cache_only: bool,
    events: Sender<Event>,
) -> Result<PathBuf, Failure> {
    // Everything hf-hub would otherwise take from the environment is given.
    let client = HFClient::builder()
        .endpoint(&config.endpoint)
        .cache_dir(&config.cache_dir)
        .token(config.token.as_deref().unwrap_or(NO_TOKEN))
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .retry_max_attempts(config.retries)
        .retry_base_delay(config.retry_base_delay)
        .build()
        .map_err(Failure::Hub)?;
    let (owner, name) = split_id(&config.mnist.repository);
    let repository = client.dataset(owner, name);
    let relay = std::sync::Arc::new(Relay { pulse: Mutex::new((0, Instant::now())), events });
    let download = repository
        .download_file()
        .filename(&split.parquet)
        .revision(&config.mnist.revision)
        .local_files_only(cache_only)
        // The caller has looked into the cache; what is there now is to be replaced.
        .force_download(!cache_only)
        .progress(relay.clone())
        .send();
    within(config.stall_timeout, &relay.pulse, download)
        .await
        .map_or(Err(Failure::Stalled), |result| result.map_err(Failure::Hub))
}

/// The bytes that are here, and since when there have been no more.
type Pulse = Mutex<(u64, Instant)>;

/// Awaits `work` as long as `pulse` moves at least once in every `patience`.
async fn within<T>(patience: Duration, pulse: &Pulse, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let (_, since) = *pulse.lock().unwrap_or_else(PoisonError::into_inner);
        let left = patience.saturating_sub(since.elapsed());
        if left.is_zero() {
            return None;
        }
        if let Ok(done) = tokio::time::timeout(left, work.as_mut()).await {
            return Some(done);
        }
    }
}

struct Relay {
    pulse: Pulse,
    events: Sender<Event>,
}

impl Relay {
    fn here(&self, bytes: u64) {
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        // The xet transfer reports ten times a second, news or not.
        if pulse.0 != bytes {
            *pulse = (bytes, Instant::now());
            // Nobody listens once the caller has gone on.
            let _ = self.events.send(Event::Here(bytes));
        }
    }
}

impl ProgressHandler for Relay {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        match event {
            DownloadEvent::Start { total_bytes, .. } => {
                let _ = self.events.send(Event::Announced(*total_bytes));
            }
            DownloadEvent::Progress { files } => {
                for file in files {
                    self.here(file.bytes_completed);
                }
            }
            DownloadEvent::AggregateProgress { bytes_completed, .. } => self.here(*bytes_completed),
            DownloadEvent::Complete => {}
        }
    }
}

impl Failure {
    /// Whether the transfer had begun and may well succeed when begun again.
    fn is_interruption(&self, received: u64) -> bool {
        match self {
            Self::Length { .. } | Self::Hub(HFError::Xet { .. }) => true,
            Self::Stalled => received > 0,
            Self::Hub(HFError::Request { source, .. }) => source.is_body() || source.is_decode(),
            _ => false,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Hub(HFError::Request { source, .. }) => innermost(source),
            Self::Hub(
                HFError::Http { context }
                | HFError::RateLimited { context, .. }
                | HFError::AuthRequired { context }
                | HFError::Forbidden { context },
            ) => match &context.server_message {
                Some(message) => format!("it answered {}: {message}", context.status),
                None => format!("it answered {}", context.status),
            },
            Self::Hub(error) => error.to_string(),
            Self::Stalled => "nothing came any more".to_owned(),
            Self::Length { found, announced } => format!("{found} of {announced} bytes came"),
            Self::Runtime(error) => error.to_string(),
        }
    }

    fn into_error(self, config: &HubConfig, split: &Split, attempts: usize) -> HubError {
        let (endpoint, file, reason) = (config.endpoint.clone(), split.parquet.clone(), self.reason());
        match self {
            failure if attempts > 1 => HubError::Interrupted { file, attempts, reason: failure.reason() },
            Self::Stalled => HubError::Stalled { endpoint, after: config.stall_timeout },
            Self::Length { .. } | Self::Hub(HFError::Xet { .. }) => {
                HubError::Interrupted { file, attempts, reason }
            }
            Self::Runtime(error) | Self::Hub(HFError::Io(error)) => {
                HubError::io("use the cache", &config.cache_dir, error)
            }
            Self::Hub(HFError::CacheLockTimeout { path }) => HubError::Locked { path },
            Self::Hub(HFError::Url(_) | HFError::InvalidParameter(_)) => {
                HubError::Endpoint { endpoint, reason }
            }
            Self::Hub(HFError::Request { source, .. }) => {
                if source.is_builder() {
                    HubError::Endpoint { endpoint, reason }
                } else if source.is_body() || source.is_decode() {
                    HubError::Interrupted { file, attempts, reason }
                } else {
                    HubError::Unreachable { endpoint, reason }
                }
            }
            Self::Hub(
                HFError::EntryNotFound { .. }
                | HFError::RepoNotFound { .. }
                | HFError::RevisionNotFound { .. },
            ) => HubError::NotFound {
                endpoint,
                file,
                repository: config.mnist.repository.clone(),
                revision: config.mnist.revision.clone(),
            },
            Self::Hub(_) => HubError::Refused { endpoint, file, reason },
        }
    }
}

/// The cause at the bottom of the chain; the layers above it only say that a request failed.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
