//! Reads, verifies and writes the files of a data set.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use diffusion_files::PartialFile;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::{HubError, Output};

/// The unpacked content of the file `name` in `folder`. `None` if it is missing, damaged or longer
/// than `limit` bytes.
///
/// # Errors
///
/// If the file exists and cannot be read ([`HubError::File`]).
pub(crate) fn read_unpacked(
    folder: &Path,
    name: &str,
    limit: usize,
) -> Result<Option<Vec<u8>>, HubError> {
    let path = folder.join(name);
    let file = match File::open(&path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(HubError::io("read", &path, error)),
    };
    let mut bytes = Vec::new();
    let limit = limit as u64 + 1;
    let read = if is_gzip(name) {
        GzDecoder::new(file).take(limit).read_to_end(&mut bytes)
    } else {
        file.take(limit).read_to_end(&mut bytes)
    };
    match read {
        Ok(length) => Ok((length as u64 != limit).then_some(bytes)),
        // The decoder's errors for bad bytes. All other errors come from the file system.
        Err(error) if is_bad_gzip(&error) => Ok(None),
        Err(error) => Err(HubError::io("read", &path, error)),
    }
}

fn is_gzip(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "gz")
}

fn is_bad_gzip(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// Compares the SHA-256 of `content` with the expected one of `output`, if that is known.
///
/// # Errors
///
/// If they differ ([`HubError::Checksum`]).
pub(crate) fn verify(content: &[u8], output: &Output) -> Result<(), HubError> {
    let Some(expected) = &output.sha256 else { return Ok(()) };
    let found = sha256(content);
    if found == *expected {
        return Ok(());
    }
    Err(HubError::Checksum { file: output.name.clone(), expected: expected.clone(), found })
}

/// The SHA-256 as 64 lower-case hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

/// The SHA-256 of a file, as 64 lower-case hexadecimal digits.
pub(crate) fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(hasher)),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(crate) fn create_folder(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(|error| HubError::io("create the folder", folder, error))
}

/// Writes `content` to the file `name` in `folder`, gzipped if the name ends in `.gz`.
pub(crate) fn write(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf, HubError> {
    let path = folder.join(name);
    write_atomic(&path, |file| {
        if !is_gzip(name) {
            return file.write_all(content);
        }
        let mut encoder = GzEncoder::new(file, Compression::default());
        encoder.write_all(content).and_then(|()| encoder.finish().map(drop))
    })?;
    Ok(path)
}

/// Writes a file under a temporary name, syncs and renames it.
pub(crate) fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), HubError> {
    let failed = |error| HubError::File { action: "write", error };
    let mut partial =
        PartialFile::new_in(path.parent().unwrap_or(path), "download-").map_err(failed)?;
    write(partial.file()).map_err(|error| HubError::io("write", path, error))?;
    partial.finish(path).map_err(failed)
}
