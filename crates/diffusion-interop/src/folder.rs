//! Files of other people's folders, read with distrust, and folders written whole or not at all.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::InteropError;

/// A larger configuration is not one.
const MAX_JSON: u64 = 1 << 20;

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// What the system refuses; something that is not a file, or a larger one.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, InteropError> {
    let length = length_within(path, limit)?;
    let file = File::open(path).map_err(InteropError::io(path))?;
    let mut bytes = Vec::with_capacity(length as usize);
    // The file may grow while it is read.
    file.take(limit).read_to_end(&mut bytes).map_err(InteropError::io(path))?;
    Ok(bytes)
}

/// The length of a regular file.
///
/// # Errors
/// What the system refuses; something that is not a file, or one of more than `limit` bytes.
pub(crate) fn length_within(path: &Path, limit: u64) -> Result<u64, InteropError> {
    let metadata = fs::metadata(path).map_err(InteropError::io(path))?;
    if !metadata.is_file() {
        return Err(InteropError::unusable(path, "this is not a file"));
    }
    if metadata.len() > limit {
        let problem = format!("it has {} bytes; such a file has at most {limit}", metadata.len());
        return Err(InteropError::unusable(path, problem));
    }
    Ok(metadata.len())
}

/// The fields of a JSON object.
///
/// # Errors
/// A file that is missing, too large, or no JSON object.
pub(crate) fn read_object(path: &Path) -> Result<serde_json::Map<String, Value>, InteropError> {
    let bytes = read_limited(path, MAX_JSON)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| InteropError::unusable(path, format!("not a JSON object: {e}")))
}

/// Makes the folder `path` of what `write` puts into a folder beside it, which is renamed when it is whole.
///
/// # Errors
/// A folder that holds something already; what the system refuses; those of `write`. Nothing is left behind then.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), InteropError>,
) -> Result<(), InteropError> {
    refuse_occupied(path)?;
    let partial = beside(path)?;
    let written = fresh_folder(&partial).and_then(|()| write(&partial)).and_then(|()| {
        if path.exists() {
            // Only an empty folder can be removed so.
            fs::remove_dir(path).map_err(InteropError::io(path))?;
        }
        fs::rename(&partial, path).map_err(InteropError::io(path))
    });
    if written.is_err() {
        // Best effort: the error that matters is the one being returned.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// Writes a file and has the system put it on the disk.
///
/// # Errors
/// What the system refuses.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), InteropError> {
    let mut file = File::create(path).map_err(InteropError::io(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(InteropError::io(path))
}

fn refuse_occupied(path: &Path) -> Result<(), InteropError> {
    if !path.exists() {
        return Ok(());
    }
    if fs::read_dir(path).map_err(InteropError::io(path))?.next().is_some() {
        let problem = "this folder is not empty; choose another, nothing is overwritten";
        return Err(InteropError::unusable(path, problem));
    }
    Ok(())
}

fn beside(path: &Path) -> Result<PathBuf, InteropError> {
    let Some(name) = path.file_name() else {
        return Err(InteropError::unusable(path, "this is not the name of a new folder"));
    };
    Ok(path.with_file_name(format!(".partial-{}", name.to_string_lossy())))
}

/// An empty folder, whatever a killed process may have left there.
fn fresh_folder(path: &Path) -> Result<(), InteropError> {
    if path.exists() {
        fs::remove_dir_all(path).map_err(InteropError::io(path))?;
    }
    fs::create_dir_all(path).map_err(InteropError::io(path))
}
