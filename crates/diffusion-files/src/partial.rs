//! Unfinished files with unique names.

use std::fs::File;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

use crate::FileError;
use crate::atomic::{PARTIAL, sync_folder};

/// An unfinished file with a unique name, so that several processes may write the same final file
/// at once. Dropping it before it is finished removes it.
///
/// ```
/// use std::io::Write;
///
/// use diffusion_files::{FileError, PartialFile};
///
/// let folder = std::env::temp_dir();
/// let path = folder.join("diffusion-files-partial.txt");
/// let mut partial = PartialFile::new_in(&folder, "text-")?;
/// partial.file().write_all(b"one line\n").map_err(FileError::io(&path))?;
/// partial.finish(&path)?;
/// # std::fs::remove_file(path).ok();
/// # Ok::<(), FileError>(())
/// ```
#[derive(Debug)]
pub struct PartialFile(NamedTempFile);

impl PartialFile {
    /// The start of the names of all unfinished files with this `label`. It finds files that a
    /// killed process left behind.
    pub fn prefix(label: &str) -> String {
        format!("{PARTIAL}{label}")
    }

    /// Creates an empty file in `folder`. Its name begins with [`prefix`](Self::prefix).
    ///
    /// # Errors
    /// An I/O error, if no file can be created in `folder`.
    pub fn new_in(folder: &Path, label: &str) -> Result<Self, FileError> {
        let prefix = Self::prefix(label);
        let mut builder = Builder::new();
        // The library's default hides the file from other users. Here the umask decides, as for any
        // other file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        builder.prefix(&prefix).tempfile_in(folder).map(Self).map_err(FileError::io(folder))
    }

    /// The open file, for writing.
    pub fn file(&mut self) -> &mut File {
        self.0.as_file_mut()
    }

    /// The temporary path of the file.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Syncs the file and renames it to `path`, in the same folder. An existing file is replaced.
    ///
    /// # Errors
    /// An I/O error, if the file cannot be synced or renamed. The unfinished file is then removed.
    pub fn finish(self, path: &Path) -> Result<(), FileError> {
        self.0.as_file().sync_all().map_err(FileError::io(path))?;
        self.0.persist(path).map_err(|e| FileError::io(path)(e.error))?;
        sync_folder(path.parent())
    }

    /// Like [`finish`](Self::finish), but fails if there is already a file at `path`.
    ///
    /// # Errors
    /// If there is a file at `path`; it remains unchanged. An I/O error, if the file cannot be
    /// synced or renamed.
    pub fn finish_new(self, path: &Path) -> Result<(), FileError> {
        self.0.as_file().sync_all().map_err(FileError::io(path))?;
        self.0.persist_noclobber(path).map_err(|e| FileError::io(path)(e.error))?;
        sync_folder(path.parent())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn several_may_write_the_same_file_and_an_unfinished_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shared");
        let mut partials: Vec<_> =
            (0..3).map(|_| PartialFile::new_in(dir.path(), "shared-").unwrap()).collect();
        for (partial, content) in partials.iter_mut().zip([b"a", b"b", b"c"]) {
            partial.file().write_all(content).unwrap();
        }
        drop(partials.pop());
        for partial in partials {
            partial.finish(&path).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"b");
        assert!(PartialFile::new_in(dir.path(), "").unwrap().finish_new(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"b");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            let mode = |path: &Path| {
                std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions())
            };
            fs::write(dir.path().join("plain"), "").unwrap();
            assert_eq!(
                mode(&path),
                mode(&dir.path().join("plain")),
                "as readable as any other file"
            );
        }
    }
}
