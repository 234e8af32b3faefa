//! Transfers one file from the hub to the cache and resumes interrupted transfers.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use diffusion_files::rename_synced;

use crate::cache::{self, RepositoryCache};
use crate::client::{Body, Client, Description};
use crate::failure::Failure;
use crate::{HubError, Progress, files};

/// A file of a data set repository.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    /// `owner/name`.
    pub(crate) repository: String,
    /// Branch, tag or commit.
    pub(crate) revision: String,
    /// Path inside the repository.
    pub(crate) path: String,
}

/// A file that was transferred to the cache.
pub(crate) struct FetchedFile {
    pub(crate) path: PathBuf,
    pub(crate) commit: String,
    /// Whether its content was compared with a SHA-256 that the hub announced.
    pub(crate) verified: bool,
}

/// Transfers a file to the cache and adds the received bytes to `received`.
///
/// Content that the cache already holds, complete and with the announced digest, is not transferred
/// again.
pub(crate) fn fetch(
    client: &Client<'_>,
    file: &RemoteFile,
    received: &mut u64,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<FetchedFile, HubError> {
    client
        .retry(&file.path, on_progress, |on_progress| attempt(client, file, received, on_progress))
        .map_err(|(failure, attempts)| failure.into_error(client.config, file, attempts))
}

fn attempt(
    client: &Client<'_>,
    file: &RemoteFile,
    received: &mut u64,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<FetchedFile, Failure> {
    let description = client.describe(file)?;
    let repository_cache = RepositoryCache::new(&client.config.cache_dir, &file.repository);
    repository_cache.create()?;
    let _lock = repository_cache
        .lock(&description.etag, || on_progress(Progress::Waiting { file: file.path.clone() }))?;

    let blob = repository_cache.blob(&description.etag);
    // Checked under the lock: its previous owner may have finished the transfer.
    if !is_complete(&blob, &description) {
        let incomplete = repository_cache.incomplete(&description.etag);
        let mut transfer =
            Transfer { client, file, description: &description, received, on_progress };
        transfer.complete(&incomplete)?;
        rename_synced(&incomplete, &blob)
            .map_err(|error| HubError::File { action: "write", error })?;
    }
    let path = repository_cache.publish(file, &description.commit, &description.etag)?;
    let verified = cache::is_sha256(&description.etag);
    Ok(FetchedFile { path, commit: description.commit, verified })
}

/// Whether a blob exists and agrees with its description.
fn is_complete(blob: &Path, description: &Description) -> bool {
    let Ok(found) = fs::metadata(blob) else { return false };
    description.size.is_none_or(|size| size == found.len())
        && (!cache::is_sha256(&description.etag)
            || files::sha256_of_file(blob).is_ok_and(|digest| digest == description.etag))
}

struct Transfer<'a> {
    client: &'a Client<'a>,
    file: &'a RemoteFile,
    description: &'a Description,
    received: &'a mut u64,
    on_progress: &'a mut dyn FnMut(Progress),
}

impl Transfer<'_> {
    /// Receives the missing bytes of the file at `path`, and verifies it.
    fn complete(&mut self, path: &Path) -> Result<(), Failure> {
        let write_error = |error| HubError::io("write", path, error);
        let mut out = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(write_error)?;
        let mut length = out.metadata().map_err(write_error)?.len();
        if !self.can_resume(length) {
            out.set_len(0).map_err(write_error)?;
            length = 0;
        }
        let resumed = length > 0;
        if self.description.size != Some(length) {
            length = self.receive(&mut out, path, length)?;
        }
        if let Some(announced) = self.description.size.filter(|size| *size != length) {
            return Err(Failure::Length { found: length, announced });
        }
        out.sync_all().map_err(write_error)?;
        drop(out);
        self.verify(path, resumed)
    }

    /// Whether to keep the bytes of an earlier attempt. Only a digest can show whether they are
    /// damaged.
    fn can_resume(&self, length: u64) -> bool {
        cache::is_sha256(&self.description.etag)
            && self.description.size.is_some_and(|size| length <= size)
    }

    /// Appends the bytes after the first `length` ones and returns the new length.
    fn receive(&mut self, out: &mut File, path: &Path, mut length: u64) -> Result<u64, Failure> {
        let write_error = |error| HubError::io("write", path, error);
        let mut body = match self.client.open(self.file, length) {
            Err(Failure::Status { status, message, retry_after }) if status.as_u16() == 416 => {
                // The bytes of the earlier attempt are not the beginning of the server's file.
                out.set_len(0).map_err(write_error)?;
                return Err(Failure::Status { status, message, retry_after });
            }
            body => body?,
        };
        self.expect_length(&body)?;
        if body.start != length {
            // The server ignores ranges and sends everything.
            out.set_len(body.start).map_err(write_error)?;
            length = body.start;
        }
        out.seek(SeekFrom::Start(length)).map_err(write_error)?;
        self.report(length);
        loop {
            let chunk = body.next()?;
            if chunk.is_empty() {
                return Ok(length);
            }
            *self.received += chunk.len() as u64;
            length += chunk.len() as u64;
            if let Some(announced) = self.description.size.filter(|size| length > *size) {
                out.set_len(0).map_err(write_error)?;
                return Err(Failure::Length { found: length, announced });
            }
            out.write_all(chunk).map_err(write_error)?;
            self.report(length);
        }
    }

    /// Checks the announced length before the content is read. A different length means an error
    /// page or another file.
    fn expect_length(&self, body: &Body) -> Result<(), Failure> {
        if let (Some(length), Some(announced)) = (body.length(), self.description.size)
            && body.start + length != announced
        {
            return Err(Failure::Length { found: body.start + length, announced });
        }
        Ok(())
    }

    fn verify(&self, path: &Path, resumed: bool) -> Result<(), Failure> {
        let announced = &self.description.etag;
        if !cache::is_sha256(announced) {
            return Ok(());
        }
        let found =
            files::sha256_of_file(path).map_err(|error| HubError::io("read", path, error))?;
        if found == *announced {
            return Ok(());
        }
        fs::remove_file(path).map_err(|error| HubError::io("remove", path, error))?;
        Err(Failure::Digest { found, announced: announced.clone(), resumed })
    }

    fn report(&mut self, done: u64) {
        let total = self.description.size.unwrap_or(0);
        (self.on_progress)(Progress::Downloading { file: self.file.path.clone(), done, total });
    }
}
