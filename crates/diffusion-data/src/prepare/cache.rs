//! A memory-mapped file of prepared pictures. They are decoded once and then shared by all runs.
//!
//! ```text
//! offset 0   "DIFFPIX1"
//!        8   u32 × 3   channels, height, width
//!       20   u32       CRC-32 of the description
//!       24   u64 × 2   offset and length of the description
//!       64   pixels, N · channels · height · width bytes
//!        …   the description: names, labels, classes and the report, as JSON
//! ```
//!
//! All numbers are little-endian. A file appears under its final name only when it is complete, and
//! is never written again: its name contains a hash of everything that its content depends on.

use std::fs::{self, File, TryLockError};
use std::hash::{Hash, Hasher};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use diffusion_files::PartialFile;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::config::Channels;
use crate::dataset::hash::StableHasher;
use crate::dataset::{Metadata, Pixels};
use crate::prepare::report::Report;
use crate::prepare::resize::Target;
use crate::{DataError, ImageDataset, Source};

/// Must change whenever the same pictures would be prepared as different pixels.
const MAGIC: &[u8; 8] = b"DIFFPIX1";
const HEAD: usize = 64;
const EXTENSION: &str = "pictures";

/// The cache file for one source, prepared with one configuration.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    /// The start of the names of all files of this source and configuration, including older ones.
    stem: String,
    /// The end of the file's name, a hash of the source's current state.
    key: u64,
}

/// Excludes other processes until it is dropped. The empty lock file is never removed: otherwise
/// two processes could hold a lock at once, one on the old file and one on a new one.
pub(crate) struct Lock {
    _file: File,
}

#[derive(Serialize, Deserialize)]
struct Description {
    names: Vec<String>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    report: Report,
}

impl Cache {
    pub(crate) fn new(folder: &Path, source: &Source, target: &Target, channels: Channels) -> Self {
        let path = fs::canonicalize(source.path()).unwrap_or_else(|_| source.path().to_owned());
        let mut hash = StableHasher::default();
        hash.write(path.to_string_lossy().as_bytes());
        hash.write(format!("{target:?} {channels:?}").as_bytes());
        let config_hash = hash.finish();
        (MAGIC, source.fingerprint(), source.classes()).hash(&mut hash);
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let name: String =
            name.chars().filter(|c| c.is_alphanumeric() || *c == '-').take(32).collect();
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Self { folder, stem: format!("{name}-{config_hash:016x}"), key: hash.finish() }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}-{:016x}.{EXTENSION}", self.stem, self.key))
    }

    /// Whether `path` is in the folder of the cache.
    pub(crate) fn contains(&self, path: &Path) -> bool {
        path.starts_with(&self.folder)
    }

    /// Opens the cached pictures; `None` if the file does not exist or is damaged.
    pub(crate) fn open(&self) -> Option<(ImageDataset, Report)> {
        open(&self.path())
    }

    /// Waits until no other process prepares the same pictures, and excludes others. Calls `wait`
    /// about every 100 ms.
    pub(crate) fn lock(
        &self,
        wait: &mut dyn FnMut() -> Result<(), DataError>,
    ) -> Result<Option<Lock>, DataError> {
        fs::create_dir_all(&self.folder).map_err(DataError::io(&self.folder))?;
        let path = self.folder.join(format!(".{}.lock", self.stem));
        let file = File::create(&path).map_err(DataError::io(&path))?;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    wait()?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                // The file system has no locks: two processes may do the same work, and the last
                // result remains.
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
        // Remove the unfinished files of killed processes.
        let prefix = PartialFile::prefix(&self.label());
        self.remove(|name| name.starts_with(&prefix));
        Ok(Some(Lock { _file: file }))
    }

    /// The label of unfinished files.
    fn label(&self) -> String {
        format!("{}-", self.stem)
    }

    /// Creates an unfinished file for the pixels.
    pub(crate) fn sink(&self) -> Result<Sink, DataError> {
        let file = PartialFile::new_in(&self.folder, &self.label())?;
        let path = file.path().to_owned();
        let mut sink = Sink::File(file, path);
        sink.append(&[0; HEAD])?;
        Ok(sink)
    }

    /// Completes the file, gives it its final name, opens it, and removes the files of earlier
    /// states of the source.
    pub(crate) fn finish(
        &self,
        sink: Sink,
        metadata: Metadata,
        report: &Report,
        shape: [usize; 3],
    ) -> Result<ImageDataset, DataError> {
        let Sink::File(mut file, path) = sink else { unreachable!("sink() creates a file") };
        let Metadata { names, labels, classes } = metadata;
        let description = Description { names, labels, classes, report: report.clone() };
        let description =
            serde_json::to_vec(&description).map_err(|e| DataError::io(&path)(e.into()))?;
        let write = |file: &mut File| {
            let offset = file.seek(SeekFrom::End(0))?;
            file.write_all(&description)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&head(shape, offset, &description))
        };
        write(file.file()).map_err(DataError::io(&path))?;
        let final_path = self.path();
        file.finish(&final_path)?;
        let current = format!("{}-{:016x}", self.stem, self.key);
        self.remove(|name| name.starts_with(&self.stem) && !name.starts_with(&current));
        let unreadable = std::io::Error::other("the file that was just written cannot be read");
        open(&final_path)
            .map(|(dataset, _)| dataset)
            .ok_or_else(|| DataError::io(&final_path)(unreadable))
    }

    /// Removes files by name. Failures are ignored, because another process may be using a file.
    fn remove(&self, unwanted: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_name().to_str().is_some_and(&unwanted) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn head([channels, height, width]: [usize; 3], offset: u64, description: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(MAGIC);
    for (i, number) in
        [channels as u32, height as u32, width as u32, crc(description)].into_iter().enumerate()
    {
        head[8 + 4 * i..12 + 4 * i].copy_from_slice(&number.to_le_bytes());
    }
    head[24..32].copy_from_slice(&offset.to_le_bytes());
    head[32..40].copy_from_slice(&(description.len() as u64).to_le_bytes());
    head
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Opens the pictures in the file at `path`; `None` if the file does not exist or is damaged.
fn open(path: &Path) -> Option<(ImageDataset, Report)> {
    let file = File::open(path).ok()?;
    // SAFETY: a file under this name is complete and is never written again, neither by this
    // process nor by another process of this program. It is written under another name and then
    // renamed, and a changed source gives another name.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) }.ok()?;
    let number = |at: usize| Some(u32::from_le_bytes(*map.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_le_bytes(*map.get(at..)?.first_chunk()?));
    if !map.starts_with(MAGIC) {
        return None;
    }
    let shape = [number(8)? as usize, number(12)? as usize, number(16)? as usize];
    let offset = usize::try_from(long(24)?).ok().filter(|offset| *offset >= HEAD)?;
    let end = offset.checked_add(usize::try_from(long(32)?).ok()?)?;
    let description = map
        .get(offset..end)
        .filter(|description| end == map.len() && crc(description) == number(20).unwrap_or(0))?;
    let Description { names, labels, classes, report } =
        serde_json::from_slice(description).ok()?;
    let bytes = shape.iter().try_fold(names.len(), |product, dim| product.checked_mul(*dim))?;
    if bytes != offset - HEAD {
        return None;
    }
    let metadata = Metadata { names, labels, classes };
    let dataset =
        ImageDataset::assemble(Pixels::Mapped(map, HEAD..offset), metadata, shape).ok()?;
    Some((dataset, report))
}

/// Collects pixels in memory or in a file.
#[derive(Debug)]
pub(crate) enum Sink {
    Memory(Vec<u8>),
    File(PartialFile, PathBuf),
}

impl Sink {
    pub(crate) fn memory() -> Self {
        Self::Memory(Vec::new())
    }

    pub(crate) fn into_memory(self) -> Pixels {
        match self {
            Self::Memory(pixels) => Pixels::Memory(pixels),
            Self::File(..) => unreachable!("memory() creates no file"),
        }
    }

    pub(crate) fn append(&mut self, pixels: &[u8]) -> Result<(), DataError> {
        match self {
            Self::Memory(all) => {
                all.extend_from_slice(pixels);
                Ok(())
            }
            Self::File(file, path) => file.file().write_all(pixels).map_err(DataError::io(path)),
        }
    }

    /// Converts grey pictures of `area` pixels to RGB in place, from the last to the first.
    pub(crate) fn widen(&mut self, area: usize) -> Result<(), DataError> {
        match self {
            Self::Memory(all) => {
                *all = all.chunks_exact(area).flat_map(|plane| plane.repeat(3)).collect();
                Ok(())
            }
            Self::File(file, path) => widen(file.file(), area).map_err(DataError::io(path)),
        }
    }
}

fn widen(file: &mut File, area: usize) -> std::io::Result<()> {
    let count = (file.seek(SeekFrom::End(0))? as usize - HEAD) / area;
    let mut plane = vec![0; area];
    for i in (0..count).rev() {
        file.seek(SeekFrom::Start((HEAD + i * area) as u64))?;
        file.read_exact(&mut plane)?;
        file.seek(SeekFrom::Start((HEAD + 3 * i * area) as u64))?;
        file.write_all(&plane.repeat(3))?;
    }
    file.seek(SeekFrom::End(0))?;
    Ok(())
}
