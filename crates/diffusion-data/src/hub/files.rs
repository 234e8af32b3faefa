//! The files to write: checked where they lie, written all or nothing.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{HubError, Output};

/// The unpacked content of the file `name` in `folder`; none if it is missing, damaged or longer than `limit`.
///
/// # Errors
///
/// [`HubError::Io`] when the file is there and cannot be read.
pub(super) fn content(folder: &Path, name: &str, limit: usize) -> Result<Option<Vec<u8>>, HubError> {
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
pub(super) fn verify(content: &[u8], output: &Output) -> Result<(), HubError> {
    let Some(expected) = &output.sha256 else { return Ok(()) };
    let found = sha256(content);
    if found == *expected {
        return Ok(());
    }
    Err(HubError::Checksum { file: output.name.clone(), expected: expected.clone(), found })
}

/// The SHA-256 as 64 lower-case hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

/// The SHA-256 of a whole file.
pub(super) fn sha256_of_file(path: &Path) -> io::Result<String> {
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

pub(super) fn create_folder(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(|error| HubError::io("create the folder", folder, error))
}

/// A temporary file, removed when dropped, so that an error on the way leaves nothing behind.
pub(super) fn temporary_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".download-").suffix(".part");
    // The crate's own default hides the file from everyone else; the umask decides as for any other file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Writes `content` as `name` into `folder`, gzipped if the name says so: under a temporary name, synced, renamed.
pub(super) fn write(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf, HubError> {
    let path = folder.join(name);
    let write = || -> io::Result<()> {
        let mut temporary = temporary_in(folder)?;
        if is_packed(name) {
            let mut encoder = GzEncoder::new(temporary.as_file_mut(), Compression::default());
            encoder.write_all(content)?;
            encoder.finish()?;
        } else {
            temporary.write_all(content)?;
        }
        temporary.as_file().sync_all()?;
        temporary.persist(&path)?;
        sync_folder(folder)
    };
    write().map_err(|error| HubError::io("write", &path, error))?;
    Ok(path)
}

/// Makes a renaming itself survive a power cut, where the system lets a folder be opened.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
