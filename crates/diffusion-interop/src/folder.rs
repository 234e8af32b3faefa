//! Reads files that are not trusted: size and type are checked first.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use diffusion_files::{FileError, replace_python_numbers};
use serde_json::{Map, Value};

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

/// How a file that Git LFS has not downloaded begins.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Fails if `bytes`, the content of the file at `path`, are a pointer of Git LFS.
pub(crate) fn check_not_pointer(path: &Path, bytes: &[u8]) -> Result<(), InteropError> {
    if bytes.starts_with(LFS_POINTER) {
        let problem = "this is a Git LFS pointer, not the file itself; `git lfs pull` downloads it";
        return Err(InteropError::unusable(path, problem));
    }
    Ok(())
}

/// The text of a JSON file.
///
/// # Errors
/// If the file is missing, too large, or a pointer of Git LFS.
pub(crate) fn read_text(path: &Path) -> Result<String, InteropError> {
    let bytes = read_limited(path, MAX_JSON)?;
    check_not_pointer(path, &bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The fields of a JSON object, which may have been written by Python.
///
/// # Errors
/// If the file is missing, too large, a pointer of Git LFS, or not a JSON object.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, InteropError> {
    parse_object(&read_text(path)?)
        .map_err(|e| InteropError::unusable(path, format!("not a JSON object: {e}")))
}

/// Names of numbers that Python writes and JSON does not have, with strings of the same length, so
/// that an error names the right column.
const NUMBERS: [(&str, &str); 3] =
    [("-Infinity", "\"-Infini\""), ("Infinity", "\"Infini\""), ("NaN", "\"N\"")];

/// Parses a JSON object. The numbers `NaN`, `Infinity` and `-Infinity` become strings.
pub(crate) fn parse_object(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let string = |number: &str| {
        NUMBERS.iter().find(|(name, _)| *name == number).map_or("null", |(_, string)| *string)
    };
    serde_json::from_str(&replace_python_numbers(text, string))
}

/// The number of Python's `json` that [`parse_object`] wrote as this string.
pub(crate) fn python_number(value: &Value) -> Option<&'static str> {
    let text = value.as_str()?;
    NUMBERS.iter().find(|(_, string)| string.trim_matches('"') == text).map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_python_are_read_outside_of_strings() {
        let text = r#"{"a": -Infinity, "b": [NaN, Infinity], "c": "NaN \" Infinity", "d": 1}"#;
        let object = parse_object(text).unwrap();
        assert_eq!(python_number(&object["a"]), Some("-Infinity"));
        assert_eq!(python_number(&object["b"][0]), Some("NaN"));
        assert_eq!(python_number(&object["b"][1]), Some("Infinity"));
        assert_eq!(object["c"], "NaN \" Infinity");
        let error = parse_object("{\"a\": -Infinity, b}").unwrap_err();
        assert_eq!((error.line(), error.column()), (1, 18));
    }
}
