//! The hub's cache folder, in the layout of the hub's own tools. `blobs/` has contents by their
//! ETag, `snapshots/<commit>/` has file names that point to them, `refs/` has branches.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use crate::{HubError, RemoteFile, files};

/// The part of the cache for one data set repository.
pub(crate) struct RepositoryCache {
    root: PathBuf,
    locks: PathBuf,
}

/// A file in the cache.
pub(crate) struct CachedFile {
    pub(crate) path: PathBuf,
    pub(crate) commit: String,
}

impl RepositoryCache {
    pub(crate) fn new(cache_dir: &Path, repository: &str) -> Self {
        let folder = format!("datasets--{}", repository.replace('/', "--"));
        Self { locks: cache_dir.join(".locks").join(&folder), root: cache_dir.join(folder) }
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The file for the received bytes of a transfer until it is complete.
    pub(crate) fn incomplete(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    pub(crate) fn create(&self) -> Result<(), HubError> {
        files::create_folder(&self.root.join("blobs"))
    }

    /// Locks the transfer of one content; waits while another program has the lock. Dropping the
    /// returned file, or the end of the process, releases the lock.
    pub(crate) fn lock(&self, etag: &str, on_wait: impl FnOnce()) -> Result<File, HubError> {
        files::create_folder(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file =
            File::create(&path).map_err(|error| HubError::io("create the lock", &path, error))?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                on_wait();
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        // Some network file systems have no locks. There the user must avoid two transfers at once.
        match locked {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => {
                Err(HubError::io("lock", &path, error))
            }
            _ => Ok(file),
        }
    }

    /// Names a content: `snapshots/<commit>/<file>` will point to the blob, and the branch to the
    /// commit.
    pub(crate) fn publish(
        &self,
        file: &RemoteFile,
        commit: &str,
        etag: &str,
    ) -> Result<PathBuf, HubError> {
        let pointer = self.snapshot(commit).join(&file.path);
        let folder = pointer.parent().unwrap_or(&self.root);
        files::create_folder(folder)?;
        self.write_pointer(&pointer, folder, etag)
            .map_err(|error| HubError::io("write", &pointer, error))?;
        self.set_branch(&file.revision, commit)?;
        Ok(pointer)
    }

    #[cfg(unix)]
    fn write_pointer(&self, pointer: &Path, folder: &Path, etag: &str) -> io::Result<()> {
        let depth = folder.strip_prefix(&self.root).map_or(0, |inner| inner.components().count());
        let target = PathBuf::from("../".repeat(depth)).join("blobs").join(etag);
        if fs::read_link(pointer).is_ok_and(|present| present == target) {
            return Ok(());
        }
        // Renamed, so that the name exists at every moment.
        let temporary = tempfile::Builder::new()
            .prefix(".pointer-")
            .make_in(folder, |path| std::os::unix::fs::symlink(&target, path))?;
        temporary.into_temp_path().persist(pointer)?;
        Ok(())
    }

    #[cfg(not(unix))]
    fn write_pointer(&self, pointer: &Path, folder: &Path, etag: &str) -> io::Result<()> {
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        io::copy(&mut File::open(self.blob(etag))?, &mut temporary)?;
        temporary.persist(pointer)?;
        Ok(())
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit of a branch at the last request for it. For a commit, the commit itself.
    pub(crate) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_name(commit))
    }

    pub(crate) fn set_branch(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write(&self.root.join("refs").join(revision), commit)
    }

    /// The cached file, if both its name and its content exist.
    pub(crate) fn find(&self, file: &RemoteFile) -> Option<CachedFile> {
        let commit = self.commit_of(&file.revision)?;
        let path = self.snapshot(&commit).join(&file.path);
        path.is_file().then_some(CachedFile { path, commit })
    }

    /// The parquet files of a commit as the hub listed them; without a list, those in the cache.
    pub(crate) fn listing(&self, commit: &str) -> Vec<String> {
        match fs::read_to_string(self.listing_path(commit)) {
            Ok(listing) => listing.lines().map(str::to_owned).collect(),
            Err(_) => files_inside(&self.snapshot(commit)),
        }
    }

    /// Stores the hub's list of files. Without it, an offline run could not know whether the cache
    /// has all shards.
    pub(crate) fn store_listing(&self, commit: &str, names: &[String]) -> Result<(), HubError> {
        write(&self.listing_path(commit), &names.join("\n"))
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.root.join(".parquet").join(commit)
    }
}

/// Removes a bad file from the cache, because other programs trust the cache too.
pub(crate) fn evict(path: &Path) {
    // Errors are ignored: the next download would find the file bad again and replace it.
    if let Ok(blob) = fs::canonicalize(path) {
        let _ = fs::remove_file(blob);
    }
    let _ = fs::remove_file(path);
}

/// The expected SHA-256 of the blob that a pointer leads to: the blob's name, if it is a digest.
pub(crate) fn digest_of_pointer(path: &Path) -> Option<String> {
    let blob = fs::canonicalize(path).ok()?;
    blob.file_name()?.to_str().filter(|name| is_sha256(name)).map(str::to_owned)
}

/// Whether an ETag is the SHA-256 of the content, as for every file that the hub keeps outside git.
pub(crate) fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a word from a server or a user is safe as a file name.
pub(crate) fn is_name(word: &str) -> bool {
    (1..=128).contains(&word.len())
        && !word.starts_with('.')
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether a path from a server stays inside the folder to which it is joined.
pub(crate) fn stays_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\\')
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

fn write(path: &Path, text: &str) -> Result<(), HubError> {
    files::create_folder(path.parent().unwrap_or(path))?;
    files::write_atomic(path, |file| file.write_all(text.as_bytes()))
}

/// The paths of all files in a folder and its subfolders, joined by `/`; none if there is no
/// folder.
fn files_inside(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.path().is_dir() {
            names.extend(files_inside(&entry.path()).iter().map(|inner| format!("{name}/{inner}")));
        } else {
            names.push(name);
        }
    }
    names
}
