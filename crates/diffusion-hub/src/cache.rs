//! The hub's cache folder, laid out as its own tools do: content under `blobs/` by its ETag, names under
//! `snapshots/<commit>/` pointing there, branches under `refs/`.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use crate::{HubError, RemoteFile, files};

/// The part of the cache that belongs to one dataset repository.
pub(crate) struct Shelf {
    root: PathBuf,
    locks: PathBuf,
}

/// What the cache holds under a name.
pub(crate) struct Cached {
    pub(crate) path: PathBuf,
    pub(crate) commit: String,
}

impl Shelf {
    pub(crate) fn new(cache_dir: &Path, repository: &str) -> Self {
        let folder = format!("datasets--{}", repository.replace('/', "--"));
        Self { locks: cache_dir.join(".locks").join(&folder), root: cache_dir.join(folder) }
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Where the bytes of a transfer gather until it is complete.
    pub(crate) fn incomplete(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    pub(crate) fn create(&self) -> Result<(), HubError> {
        files::create_folder(&self.root.join("blobs"))
    }

    /// Waits for whoever else transfers the same content; the lock goes with the returned file or its process.
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
        // A network file system without locks: two transfers at once are then the user's to avoid.
        match locked {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => {
                Err(HubError::io("lock", &path, error))
            }
            _ => Ok(file),
        }
    }

    /// Names the content: `snapshots/<commit>/<file>` points to the blob, and the branch to the commit.
    pub(crate) fn publish(
        &self,
        file: &RemoteFile,
        commit: &str,
        etag: &str,
    ) -> Result<PathBuf, HubError> {
        let pointer = self.snapshot(commit).join(&file.path);
        let folder = pointer.parent().unwrap_or(&self.root);
        files::create_folder(folder)?;
        self.point(&pointer, folder, etag)
            .map_err(|error| HubError::io("write", &pointer, error))?;
        self.set_branch(&file.revision, commit)?;
        Ok(pointer)
    }

    #[cfg(unix)]
    fn point(&self, pointer: &Path, folder: &Path, etag: &str) -> io::Result<()> {
        let depth = folder.strip_prefix(&self.root).map_or(0, |below| below.components().count());
        let target = PathBuf::from("../".repeat(depth)).join("blobs").join(etag);
        if fs::read_link(pointer).is_ok_and(|present| present == target) {
            return Ok(());
        }
        // Renamed into place, so that a reader never finds the name missing.
        let temporary = tempfile::Builder::new()
            .prefix(".pointer-")
            .make_in(folder, |path| std::os::unix::fs::symlink(&target, path))?;
        temporary.into_temp_path().persist(pointer)?;
        Ok(())
    }

    #[cfg(not(unix))]
    fn point(&self, pointer: &Path, folder: &Path, etag: &str) -> io::Result<()> {
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        io::copy(&mut File::open(self.blob(etag))?, &mut temporary)?;
        temporary.persist(pointer)?;
        Ok(())
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit to which a branch pointed when it was last asked for; a commit stands for itself.
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

    /// The file under its name, if it is there with its content.
    pub(crate) fn find(&self, file: &RemoteFile) -> Option<Cached> {
        let commit = self.commit_of(&file.revision)?;
        let path = self.snapshot(&commit).join(&file.path);
        path.is_file().then_some(Cached { path, commit })
    }

    /// The parquet files of a commit as the hub listed them, or those that are here.
    pub(crate) fn listing(&self, commit: &str) -> Vec<String> {
        match fs::read_to_string(self.listing_path(commit)) {
            Ok(listing) => listing.lines().map(str::to_owned).collect(),
            Err(_) => names_below(&self.snapshot(commit)),
        }
    }

    /// Keeps the hub's list of files, without which nobody could tell offline whether the shards here are all.
    pub(crate) fn keep_listing(&self, commit: &str, names: &[String]) -> Result<(), HubError> {
        write(&self.listing_path(commit), &names.join("\n"))
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.root.join(".parquet").join(commit)
    }
}

/// Removes a file that turned out to be bad from the cache, which other programs trust too.
pub(crate) fn evict(path: &Path) {
    // Best effort: what stays behind is found bad again, and every download here replaces it.
    if let Ok(blob) = fs::canonicalize(path) {
        let _ = fs::remove_file(blob);
    }
    let _ = fs::remove_file(path);
}

/// The SHA-256 that the blob behind a pointer must have: its name, if it is one.
pub(crate) fn digest_of_pointer(path: &Path) -> Option<String> {
    let blob = fs::canonicalize(path).ok()?;
    blob.file_name()?.to_str().filter(|name| is_sha256(name)).map(str::to_owned)
}

/// Whether an ETag is the SHA-256 of the content, as for every file the hub keeps outside git.
pub(crate) fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a word from outside can be the name of a file here.
pub(crate) fn is_name(word: &str) -> bool {
    (1..=128).contains(&word.len())
        && !word.starts_with('.')
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether a path from outside stays below the folder to which it is joined.
pub(crate) fn is_below(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\\')
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

fn write(path: &Path, text: &str) -> Result<(), HubError> {
    files::create_folder(path.parent().unwrap_or(path))?;
    files::write_whole(path, |file| file.write_all(text.as_bytes()))
}

/// The paths of all files below a folder, parts joined by `/`; none where there is no folder.
fn names_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.path().is_dir() {
            names.extend(names_below(&entry.path()).iter().map(|below| format!("{name}/{below}")));
        } else {
            names.push(name);
        }
    }
    names
}
