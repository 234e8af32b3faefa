//! The four gzipped IDX files: checked where they lie, written all or nothing.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::{HubError, IdxFile};

/// Whether `path` is a gzip file whose unpacked content has the digest of `file`.
///
/// A file that is damaged, cut short or something else entirely is not intact, which is no error; a file that
/// cannot be read is.
pub(super) fn is_intact(path: &Path, file: &IdxFile) -> Result<bool, HubError> {
    let packed = match File::open(path) {
        Ok(packed) => packed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(HubError::io("read", path, error)),
    };
    let mut unpacked = GzDecoder::new(BufReader::new(packed));
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match unpacked.read(&mut buffer) {
            Ok(0) => return Ok(hex(hasher) == file.sha256),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What a decoder says of bad bytes; everything else comes from the file system.
            Err(error) if is_bad_gzip(&error) => return Ok(false),
            Err(error) => return Err(HubError::io("read", path, error)),
        }
    }
}

fn is_bad_gzip(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// Compares the digest of `content` with the one `file` must have.
pub(super) fn verify(content: &[u8], file: &IdxFile) -> Result<(), HubError> {
    let found = hex(Sha256::new_with_prefix(content));
    if found == file.sha256 {
        return Ok(());
    }
    Err(HubError::Checksum { file: file.name.clone(), expected: file.sha256.clone(), found })
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(super) fn create_folder(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(|error| HubError::io("create the folder", folder, error))
}

/// Writes `content`, gzipped, as `file` into `folder`: under a temporary name, synced, then renamed.
pub(super) fn write(folder: &Path, file: &IdxFile, content: &[u8]) -> Result<PathBuf, HubError> {
    let path = folder.join(&file.name);
    let failed = |error| HubError::io("write", &path, error);

    let mut builder = tempfile::Builder::new();
    builder.prefix(".mnist-").suffix(".part");
    // The crate's own default hides the file from everyone else; the umask decides as for any other file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));

    // Removed when dropped, so that an error on the way leaves nothing behind.
    let mut temporary = builder.tempfile_in(folder).map_err(failed)?;
    let mut encoder = GzEncoder::new(temporary.as_file_mut(), Compression::default());
    encoder.write_all(content).map_err(failed)?;
    encoder.finish().map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(&path).map_err(|error| failed(error.error))?;
    sync_folder(folder).map_err(failed)?;
    Ok(path)
}

/// Makes the renaming itself survive a power cut, where the system lets a folder be opened.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
