//! Files and folders are written under a temporary name and then renamed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::FileError;

pub(crate) const PARTIAL: &str = ".partial-";
const REMOVED: &str = ".removed-";

/// Whether a file name is that of an unfinished file or folder that a killed process left behind.
pub fn is_leftover(name: &str) -> bool {
    name.starts_with(PARTIAL) || name.starts_with(REMOVED)
}

/// Reads the whole file at `path`.
///
/// # Errors
/// An I/O error, if the file cannot be read.
pub fn read_file(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(FileError::io(path))
}

/// Writes `bytes` under a temporary name in the folder of `path`, syncs the file and renames it to
/// `path`. An existing file is replaced; of a link, the file that it leads to. A pipe or a device
/// is written to.
///
/// # Errors
/// An I/O error, if the file cannot be written. The previous file, if any, remains unchanged.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    if is_special(path) {
        return fs::write(path, bytes).map_err(FileError::io(path));
    }
    write_file_with(path, |partial| write_synced(partial, bytes))?;
    sync_folder(path.parent())
}

/// Like [`write_file`], but `write` creates the file at the temporary path that it receives.
/// `write` decides whether to sync it.
///
/// # Errors
/// The error of `write`. An I/O error, if the file cannot be renamed. The previous file, if any,
/// remains unchanged.
pub fn write_file_with<E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    // Renaming to a link would replace the link.
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    let target = if is_link { fs::canonicalize(path).ok() } else { None };
    let target = target.as_deref().unwrap_or(path);
    let partial = temporary_path(target, PARTIAL);
    let result = write(&partial).and_then(|()| {
        if !is_special(target) {
            return Ok(fs::rename(&partial, target).map_err(FileError::io(path))?);
        }
        let bytes = fs::read(&partial).map_err(FileError::io(path))?;
        fs::write(target, bytes).map_err(FileError::io(path))?;
        Ok(fs::remove_file(&partial).map_err(FileError::io(path))?)
    });
    if result.is_err() {
        // Best effort: the error that matters is the one being returned.
        let _ = fs::remove_file(&partial);
    }
    result
}

/// Whether there is a pipe or a device at `path`, which must not be replaced by a file.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Creates a folder with a temporary name, lets `write` fill it, syncs it and renames it to `path`.
/// An existing folder is replaced.
///
/// # Errors
/// The error of `write`. An I/O error, if the folder cannot be created, synced or renamed. No new
/// folder then exists at `path`.
pub fn write_folder<E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let partial = temporary_path(path, PARTIAL);
    let result = empty_folder(&partial)
        .map_err(E::from)
        .and_then(|()| write(&partial))
        .and_then(|()| Ok(rename_folder(&partial, path)?));
    if result.is_err() {
        // Best effort: the error that matters is the one being returned.
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

/// Like [`write_folder`], but nothing is overwritten: `path` must not exist or must be an empty
/// folder.
///
/// # Errors
/// If `path` is a folder that is not empty, or has no last component. The error of `write`. An I/O
/// error, if the folder cannot be created, synced or renamed.
pub fn write_new_folder<E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    if path.exists() && fs::read_dir(path).map_err(FileError::io(path))?.next().is_some() {
        let problem = "this folder is not empty; choose another, nothing is overwritten";
        return Err(FileError::unusable(path, problem).into());
    }
    if path.file_name().is_none() {
        return Err(FileError::unusable(path, "this is not the name of a folder").into());
    }
    write_folder(path, |partial| {
        write(partial)?;
        if path.exists() {
            // Fails if the folder is no longer empty.
            fs::remove_dir(path).map_err(FileError::io(path))?;
        }
        Ok(())
    })
}

/// Renames a folder and then removes it, so that its name never refers to an incomplete folder.
///
/// # Errors
/// An I/O error, if the folder cannot be renamed or removed.
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    let removed = temporary_path(path, REMOVED);
    fs::rename(path, &removed).map_err(FileError::io(path))?;
    fs::remove_dir_all(&removed).map_err(FileError::io(&removed))
}

/// Writes `bytes` directly to `path` and syncs them to the disk. For files in a folder that is
/// later renamed as a whole.
///
/// # Errors
/// An I/O error, if the file cannot be written.
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = File::create(path).map_err(FileError::io(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(FileError::io(path))
}

/// Renames the complete file or folder `from` to `path`, in the same folder, and syncs that folder,
/// so that the new name survives a power cut.
///
/// # Errors
/// An I/O error, if `from` cannot be renamed or the folder cannot be synced.
pub fn rename_synced(from: &Path, path: &Path) -> Result<(), FileError> {
    fs::rename(from, path).map_err(FileError::io(path))?;
    sync_folder(path.parent())
}

/// The temporary name in the folder of `path`, for the time before or after it has that name.
fn temporary_path(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{prefix}{name}"))
}

fn empty_folder(path: &Path) -> Result<(), FileError> {
    if path.exists() {
        fs::remove_dir_all(path).map_err(FileError::io(path))?;
    }
    fs::create_dir_all(path).map_err(FileError::io(path))
}

fn rename_folder(partial: &Path, path: &Path) -> Result<(), FileError> {
    sync_folder(Some(partial))?;
    if path.exists() {
        remove_folder(path)?;
    }
    rename_synced(partial, path)
}

/// Syncs `dir`, so that a rename inside it survives a power cut. Only Unix can sync a folder.
pub(crate) fn sync_folder(dir: Option<&Path>) -> Result<(), FileError> {
    #[cfg(unix)]
    if let Some(dir) = dir {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir).and_then(|f| f.sync_all()).map_err(FileError::io(dir))?;
    }
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_previous_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_file(&path, b"before").unwrap();
        let failed = write_file_with(&path, |partial| {
            write_synced(partial, b"half")?;
            Err(FileError::unusable(partial, "the disk is full"))
        });
        assert!(failed.is_err());
        assert_eq!(read_file(&path).unwrap(), b"before");
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn a_folder_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let write =
            |name: &'static str| move |folder: &Path| write_synced(&folder.join(name), b"x");
        write_folder(&path, write("old")).unwrap();
        write_folder(&path, write("new")).unwrap();
        assert_eq!(names(&path), ["new"]);
        let failed = write_folder(&path, |folder| {
            write_synced(&folder.join("half"), b"x")?;
            Err(FileError::unusable(folder, "the disk is full"))
        });
        assert!(failed.is_err());
        assert_eq!(
            (names(&path), names(dir.path())),
            (vec!["new".to_owned()], vec!["checkpoint".to_owned()])
        );
    }

    #[test]
    fn a_new_folder_replaces_only_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        fs::create_dir(&path).unwrap();
        let write = |folder: &Path| write_synced(&folder.join("config"), b"x");
        write_new_folder(&path, write).unwrap();
        let error = write_new_folder(&path, write).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
        assert!(write_new_folder(Path::new("/"), write).is_err());
    }
}
