//! One file from the hub into its cache, going on where an earlier attempt stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use diffusion_files::rename_synced;

use crate::cache::{self, Shelf};
use crate::client::{Body, Client, Description};
use crate::failure::Failure;
use crate::{HubError, Progress, files};

/// A file of a dataset repository.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    /// `owner/name`.
    pub(crate) repository: String,
    /// Branch, tag or commit.
    pub(crate) revision: String,
    /// Path inside the repository.
    pub(crate) path: String,
}

/// A file that is in the cache now.
pub(crate) struct Fetched {
    pub(crate) path: PathBuf,
    pub(crate) commit: String,
    /// Whether it was compared with a SHA-256 that the hub announced.
    pub(crate) verified: bool,
}

/// Brings a file into the cache and counts the bytes that took in `received`.
///
/// Content that the cache holds already, whole and with the announced digest, is not transferred again.
pub(crate) fn fetch(
    client: &Client<'_>,
    file: &RemoteFile,
    received: &mut u64,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Fetched, HubError> {
    client
        .persist(&file.path, on_progress, |on_progress| {
            attempt(client, file, received, on_progress)
        })
        .map_err(|(failure, attempts)| failure.into_error(client.config, file, attempts))
}

fn attempt(
    client: &Client<'_>,
    file: &RemoteFile,
    received: &mut u64,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Fetched, Failure> {
    let about = client.describe(file)?;
    let shelf = Shelf::new(&client.config.cache_dir, &file.repository);
    shelf.create()?;
    let _lock =
        shelf.lock(&about.etag, || on_progress(Progress::Waiting { file: file.path.clone() }))?;

    let blob = shelf.blob(&about.etag);
    // Looked at under the lock: whoever held it may just have finished.
    if !is_whole(&blob, &about) {
        let incomplete = shelf.incomplete(&about.etag);
        let mut transfer = Transfer { client, file, about: &about, received, on_progress };
        transfer.complete(&incomplete)?;
        rename_synced(&incomplete, &blob)
            .map_err(|error| HubError::File { action: "write", error })?;
    }
    let path = shelf.publish(file, &about.commit, &about.etag)?;
    Ok(Fetched { path, commit: about.commit, verified: cache::is_sha256(&about.etag) })
}

/// Whether a blob is what its description says; one that cannot be read is not.
fn is_whole(blob: &Path, about: &Description) -> bool {
    let Ok(found) = fs::metadata(blob) else { return false };
    about.size.is_none_or(|size| size == found.len())
        && (!cache::is_sha256(&about.etag)
            || files::sha256_of_file(blob).is_ok_and(|digest| digest == about.etag))
}

struct Transfer<'a> {
    client: &'a Client<'a>,
    file: &'a RemoteFile,
    about: &'a Description,
    received: &'a mut u64,
    on_progress: &'a mut dyn FnMut(Progress),
}

impl Transfer<'_> {
    /// Makes the file at `path` whole, and verifies it.
    fn complete(&mut self, path: &Path) -> Result<(), Failure> {
        let failed = |error| HubError::io("write", path, error);
        let mut out = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(failed)?;
        let mut here = out.metadata().map_err(failed)?.len();
        if !self.can_continue(here) {
            out.set_len(0).map_err(failed)?;
            here = 0;
        }
        let resumed = here > 0;
        if self.about.size != Some(here) {
            here = self.receive(&mut out, path, here)?;
        }
        if let Some(announced) = self.about.size.filter(|size| *size != here) {
            return Err(Failure::Length { found: here, announced });
        }
        out.sync_all().map_err(failed)?;
        drop(out);
        self.verify(path, resumed)
    }

    /// Whether the bytes of an earlier attempt are worth keeping: only where a digest will tell whether they are good.
    fn can_continue(&self, here: u64) -> bool {
        cache::is_sha256(&self.about.etag) && self.about.size.is_some_and(|size| here <= size)
    }

    /// Appends what is missing after the first `here` bytes and returns how many there are then.
    fn receive(&mut self, out: &mut File, path: &Path, mut here: u64) -> Result<u64, Failure> {
        let failed = |error| HubError::io("write", path, error);
        let mut body = match self.client.open(self.file, here) {
            Err(Failure::Status { status, message, retry_after }) if status.as_u16() == 416 => {
                // What is here is no beginning of what the server has.
                out.set_len(0).map_err(failed)?;
                return Err(Failure::Status { status, message, retry_after });
            }
            body => body?,
        };
        self.expect_length(&body)?;
        if body.start != here {
            // The server ignores ranges and sends everything.
            out.set_len(body.start).map_err(failed)?;
            here = body.start;
        }
        out.seek(SeekFrom::Start(here)).map_err(failed)?;
        self.report(here);
        loop {
            let chunk = body.next()?;
            if chunk.is_empty() {
                return Ok(here);
            }
            *self.received += chunk.len() as u64;
            here += chunk.len() as u64;
            if let Some(announced) = self.about.size.filter(|size| here > *size) {
                out.set_len(0).map_err(failed)?;
                return Err(Failure::Length { found: here, announced });
            }
            out.write_all(chunk).map_err(failed)?;
            self.report(here);
        }
    }

    /// Refuses an answer of another length unread: it is an error page or another file.
    fn expect_length(&self, body: &Body) -> Result<(), Failure> {
        if let (Some(length), Some(announced)) = (body.length(), self.about.size)
            && body.start + length != announced
        {
            return Err(Failure::Length { found: body.start + length, announced });
        }
        Ok(())
    }

    fn verify(&self, path: &Path, resumed: bool) -> Result<(), Failure> {
        let announced = &self.about.etag;
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
        let total = self.about.size.unwrap_or(0);
        (self.on_progress)(Progress::Downloading { file: self.file.path.clone(), done, total });
    }
}
