//! Reads files that are not trusted: size and type are checked first.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use diffusion_files::FileError;
use serde_json::Value;

use crate::InteropError;

/// The most bytes of a JSON file.
const MAX_JSON: u64 = 1 << 20;

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// - If the path is not a regular file, or the file is larger than `limit`.
/// - An I/O error of the operating system.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, InteropError> {
    let length = length_within(path, limit)?;
    let file = File::open(path).map_err(FileError::io(path))?;
    let mut bytes = Vec::with_capacity(length as usize);
    // The file may grow while it is read.
    file.take(limit).read_to_end(&mut bytes).map_err(FileError::io(path))?;
    Ok(bytes)
}

/// The length of a regular file of at most `limit` bytes.
///
/// # Errors
/// - If the path is not a regular file, or the file is larger than `limit`.
/// - An I/O error of the operating system.
pub(crate) fn length_within(path: &Path, limit: u64) -> Result<u64, InteropError> {
    let metadata = fs::metadata(path).map_err(FileError::io(path))?;
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
/// If the file is missing, too large, or not a JSON object.
pub(crate) fn read_object(path: &Path) -> Result<serde_json::Map<String, Value>, InteropError> {
    let bytes = read_limited(path, MAX_JSON)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| InteropError::unusable(path, format!("not a JSON object: {e}")))
}
