//! Writing beside the final name, then renaming.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::FileError;

pub(crate) const PARTIAL: &str = ".partial-";
const REMOVED: &str = ".removed-";

/// Whether a file name is that of something unfinished, left behind by a process that was killed.
pub fn is_leftover(name: &str) -> bool {
    name.starts_with(PARTIAL) || name.starts_with(REMOVED)
}

/// The whole content of the file at `path`.
///
/// # Errors
/// A file that cannot be read.
pub fn read_file(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(FileError::io(path))
}

/// Writes `bytes` to `path`: beside it, synced, then renamed. An existing file is replaced.
///
/// # Errors
/// A file that cannot be written; the previous one, if any, stays as it was.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_file_with(path, |partial| write_synced(partial, bytes))?;
    sync_folder(path.parent())
}

/// As [`write_file`], for a file that `write` makes at the path it is given. Syncing is up to `write`.
///
/// # Errors
/// Those of `write`; a file that cannot be renamed. The previous file, if any, stays as it was.
pub fn write_file_with<E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let partial = beside(path, PARTIAL);
    let written =
        write(&partial).and_then(|()| Ok(fs::rename(&partial, path).map_err(FileError::io(path))?));
    if written.is_err() {
        // Best effort: the error that matters is the one being returned.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Writes a folder at `path` with the content that `write` puts into the folder it is given: beside the final name,
/// synced, then renamed. An existing folder is replaced.
///
/// # Errors
/// Those of `write`; what the system reports. Nothing new is left under the final name.
pub fn write_folder<E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let partial = beside(path, PARTIAL);
    let written = empty_folder(&partial)
        .map_err(E::from)
        .and_then(|()| write(&partial))
        .and_then(|()| Ok(rename_folder(&partial, path)?));
    if written.is_err() {
        // Best effort: the error that matters is the one being returned.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// As [`write_folder`], for a folder that must be new: an empty one is taken, nothing is overwritten.
///
/// # Errors
/// A folder with something in it; a path without a last part; those of [`write_folder`].
pub fn new_folder<E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    if path.exists() && fs::read_dir(path).map_err(FileError::io(path))?.next().is_some() {
        let problem = "this folder is not empty; choose another, nothing is overwritten";
        return Err(FileError::unusable(path, problem).into());
    }
    if path.file_name().is_none() {
        return Err(FileError::unusable(path, "this is not the name of a new folder").into());
    }
    write_folder(path, |partial| {
        write(partial)?;
        if path.exists() {
            // Fails for a folder that is no longer empty.
            fs::remove_dir(path).map_err(FileError::io(path))?;
        }
        Ok(())
    })
}

/// Removes a folder so that it is never seen half empty under its own name.
///
/// # Errors
/// A folder that cannot be renamed or removed.
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    let removed = beside(path, REMOVED);
    fs::rename(path, &removed).map_err(FileError::io(path))?;
    fs::remove_dir_all(&removed).map_err(FileError::io(&removed))
}

/// Writes `bytes` to `path` directly and waits until the system has them on the disk. For files inside a folder that is
/// renamed as a whole.
///
/// # Errors
/// A file that cannot be written.
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = File::create(path).map_err(FileError::io(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(FileError::io(path))
}

/// Renames a whole file or folder to `path`, in the same folder, so that the new name lasts through a power cut.
///
/// # Errors
/// Something that cannot be renamed; a folder that cannot be synced.
pub fn rename_synced(whole: &Path, path: &Path) -> Result<(), FileError> {
    fs::rename(whole, path).map_err(FileError::io(path))?;
    sync_folder(path.parent())
}

/// The name for something unfinished that will be renamed to `path`, or was.
fn beside(path: &Path, prefix: &str) -> PathBuf {
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

/// Makes a rename inside `dir` last through a power cut, on systems where a folder can be synced.
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
    fn a_new_folder_takes_the_place_of_an_empty_one_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        fs::create_dir(&path).unwrap();
        let write = |folder: &Path| write_synced(&folder.join("config"), b"x");
        new_folder(&path, write).unwrap();
        let error = new_folder(&path, write).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
        assert!(new_folder(Path::new("/"), write).is_err());
    }
}
