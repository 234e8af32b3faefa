//! The files to write: checked where they lie, written all or nothing.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use diffusion_files::PartialFile;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::{HubError, Output};

/// The unpacked content of the file `name` in `folder`; none if it is missing, damaged or longer than `limit`.
///
/// # Errors
///
/// [`HubError::File`] when the file is there and cannot be read.
pub(crate) fn content(
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
    let read = if is_packed(name) {
        GzDecoder::new(file).take(limit).read_to_end(&mut bytes)
    } else {
        file.take(limit).read_to_end(&mut bytes)
    };
    match read {
        Ok(length) => Ok((length as u64 != limit).then_some(bytes)),
        // What a decoder says of bad bytes; everything else comes from the file system.
        Err(error) if is_bad_gzip(&error) => Ok(None),
        Err(error) => Err(HubError::io("read", &path, error)),
    }
}

fn is_packed(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "gz")
}

fn is_bad_gzip(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// Compares the digest of `content` with the one `output` must have, if that is known.
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

/// The SHA-256 of a whole file.
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

/// Writes `content` as `name` into `folder`, gzipped if the name says so.
pub(crate) fn write(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf, HubError> {
    let path = folder.join(name);
    write_whole(&path, |file| {
        if !is_packed(name) {
            return file.write_all(content);
        }
        let mut encoder = GzEncoder::new(file, Compression::default());
        encoder.write_all(content).and_then(|()| encoder.finish().map(drop))
    })?;
    Ok(path)
}

/// Writes a file under a temporary name, syncs and renames it.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), HubError> {
    let failed = |error| HubError::File { action: "write", error };
    let mut partial =
        PartialFile::new_in(path.parent().unwrap_or(path), "download-").map_err(failed)?;
    write(partial.file()).map_err(|error| HubError::io("write", path, error))?;
    partial.finish(path).map_err(failed)
}
