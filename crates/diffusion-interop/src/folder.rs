//! Files of other people's folders, read with distrust.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use diffusion_files::FileError;
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
    let file = File::open(path).map_err(FileError::io(path))?;
    let mut bytes = Vec::with_capacity(length as usize);
    // The file may grow while it is read.
    file.take(limit).read_to_end(&mut bytes).map_err(FileError::io(path))?;
    Ok(bytes)
}

/// The length of a regular file.
///
/// # Errors
/// What the system refuses; something that is not a file, or one of more than `limit` bytes.
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
/// A file that is missing, too large, or no JSON object.
pub(crate) fn read_object(path: &Path) -> Result<serde_json::Map<String, Value>, InteropError> {
    let bytes = read_limited(path, MAX_JSON)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| InteropError::unusable(path, format!("not a JSON object: {e}")))
}
