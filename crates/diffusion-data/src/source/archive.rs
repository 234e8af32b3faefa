//! Pictures in tar and zip archives. Nothing is unpacked to disk.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::kind::{self, FileKind, HEAD_BYTES};
use super::listing::{self, ListedFile, Listing};
use super::{Content, EXPECTED, Record, Records, SourceInfo, table};
use crate::DataError;
use crate::config::Split;
use crate::error::first_names;
use crate::prepare::decode::MAX_FILE_BYTES;

/// An archive and the label of each picture in it, in the archive's order.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    format: Format,
    pictures: Vec<Picture>,
    /// Names in the table of labels that are not in the archive.
    missing: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Tar,
    GzippedTar,
    Zip,
}

/// A picture: its index among the entries, its name without the folder that all pictures share, and
/// its label.
#[derive(Debug)]
struct Picture {
    place: usize,
    name: String,
    label: Option<u32>,
}

/// Whether `head`, the first 512 bytes of a file, begins a tar archive.
pub(super) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// The first 512 unpacked bytes of a gzipped file; fewer if it is damaged.
pub(super) fn gunzipped_head(path: &Path) -> Result<Vec<u8>, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    let mut head = Vec::new();
    // If unpacking fails, the format is not recognised.
    let _ = MultiGzDecoder::new(BufReader::new(file)).take(512).read_to_end(&mut head);
    Ok(head)
}

/// Opens the pictures of `split`.
pub(super) fn open(path: &Path, split: Split) -> Result<(SourceInfo<Archive>, Listing), DataError> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(2).read_to_end(&mut head))
        .map_err(DataError::io(path))?;
    let format = match head.as_slice() {
        b"PK" => Format::Zip,
        [0x1f, 0x8b] => Format::GzippedTar,
        _ => Format::Tar,
    };
    let mut archive =
        Archive { path: path.to_owned(), format, pictures: Vec::new(), missing: Vec::new() };
    if format == Format::Zip {
        archive.check_methods()?;
    }
    let (mut places, mut listed) = (Vec::new(), Vec::new());
    archive.visit(&mut |place, name, read| {
        let kind = kind::kind_of(name, || read(HEAD_BYTES as u64).unwrap_or_default());
        let table = (kind == FileKind::Table).then(|| read(table::MAX_BYTES + 1));
        listed.push(ListedFile { name: name.to_owned(), kind, table });
        places.push(place);
        Ok(())
    })?;
    if !listed.iter().any(|file| file.kind == FileKind::Picture) {
        let names: Vec<String> = listed.into_iter().map(|file| file.name).collect();
        return Err(DataError::NothingFound {
            path: path.to_owned(),
            expected: EXPECTED,
            found: first_names(&names),
        });
    }
    let mut list = Listing::new(&listed, split)
        .map_err(|(table, problem)| archive.damaged(&format!("{table}: {problem}")))?;
    let below = |name: &str| name.strip_prefix(&list.shared).unwrap_or(name).to_owned();
    archive.missing = list.missing.iter().map(|name| below(name)).collect();
    archive.pictures = list
        .pictures
        .iter()
        .map(|&(i, label)| Picture { place: places[i], name: below(&listed[i].name), label })
        .collect();
    let classes = std::mem::take(&mut list.classes);
    Ok((SourceInfo { count: archive.pictures.len(), classes, kind: archive }, list))
}

/// Reads at most the given number of bytes of an entry.
type ReadEntry<'r> = dyn FnMut(u64) -> Result<Vec<u8>, String> + 'r;

/// A callback that receives an entry's index, its name, and a function that reads it once.
type Visitor<'v> = dyn FnMut(usize, &str, &mut ReadEntry<'_>) -> Result<(), DataError> + 'v;

impl Archive {
    pub(super) fn description(&self) -> &'static str {
        match self.format {
            Format::Tar => "a tar archive",
            Format::GzippedTar => "a gzipped tar archive",
            Format::Zip => "a zip archive",
        }
    }

    fn damaged(&self, problem: &str) -> DataError {
        DataError::unusable(&self.path, format!("{}: {problem}", self.description()))
    }

    fn file(&self) -> Result<BufReader<File>, DataError> {
        Ok(BufReader::with_capacity(
            1 << 16,
            File::open(&self.path).map_err(DataError::io(&self.path))?,
        ))
    }

    fn tar(&self) -> Result<tar::Archive<Box<dyn Read + Send>>, DataError> {
        let file = self.file()?;
        let read: Box<dyn Read + Send> = match self.format {
            Format::GzippedTar => {
                Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)))
            }
            _ => Box::new(file),
        };
        Ok(tar::Archive::new(read))
    }

    fn zip(&self) -> Result<zip::ZipArchive<BufReader<File>>, DataError> {
        zip::ZipArchive::new(self.file()?).map_err(|e| self.damaged(&e.to_string()))
    }

    /// Checks that the files of a zip archive can be unpacked.
    fn check_methods(&self) -> Result<(), DataError> {
        use zip::CompressionMethod::{Deflated, Stored};

        let mut zip = self.zip()?;
        let (mut of, mut encrypted, mut packed, mut method_name) = (0, 0, 0, String::new());
        for place in 0..zip.len() {
            let entry = zip.by_index_raw(place).map_err(|e| self.damaged(&e.to_string()))?;
            if !kind::has_picture_ending(&kind::text_of(entry.name_raw())) {
                continue;
            }
            of += 1;
            encrypted += usize::from(entry.encrypted());
            let method = entry.compression();
            if ![Stored, Deflated].contains(&method) {
                packed += 1;
                method_name = method.to_string();
            }
        }
        let advice = "unpack it and use the folder, or pack it again with deflate";
        if encrypted > 0 {
            return Err(self.damaged(&format!(
                "{encrypted} of its {of} pictures are encrypted; unpack it and use the folder"
            )));
        }
        if packed > 0 {
            return Err(self.damaged(&format!(
                "{packed} of its {of} pictures are compressed by {method_name}, which cannot be read; \
                 {advice}"
            )));
        }
        Ok(())
    }

    /// Visits all regular files, in order.
    fn visit(&self, visitor: &mut Visitor<'_>) -> Result<(), DataError> {
        if self.format == Format::Zip {
            let mut zip = self.zip()?;
            for place in 0..zip.len() {
                let name = {
                    let entry =
                        zip.by_index_raw(place).map_err(|e| self.damaged(&e.to_string()))?;
                    entry.is_file().then(|| {
                        let name: Vec<u8> = entry.name_raw().to_vec();
                        let slashes = name.into_iter().map(|b| if b == b'\\' { b'/' } else { b });
                        normalised(&kind::text_of(&slashes.collect::<Vec<u8>>()))
                    })
                };
                let Some(name) = name else { continue };
                visitor(place, &name, &mut |most| {
                    let entry = zip.by_index(place).map_err(|e| e.to_string())?;
                    read_at_most(entry, most)
                })?;
            }
            return Ok(());
        }
        let mut tar = self.tar()?;
        for (place, entry) in tar.entries().map_err(|e| self.damaged(&e.to_string()))?.enumerate() {
            let mut entry =
                entry.map_err(|e| self.damaged(&format!("damaged after entry {place}: {e}")))?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = normalised(&kind::text_of(&entry.path_bytes()));
            visitor(place, &name, &mut |most| read_at_most(&mut entry, most))?;
        }
        Ok(())
    }

    pub(super) fn records(&self) -> Result<Records<'_>, DataError> {
        let missing = self.missing.iter().map(|name| {
            let reason = listing::MISSING.to_owned();
            Ok(Record { name: name.clone(), label: None, content: Err(reason) })
        });
        let record = |picture: &Picture, content: Result<Vec<u8>, String>| Record {
            name: picture.name.clone(),
            label: picture.label,
            content: content.map(Content::Encoded),
        };
        if self.format == Format::Zip {
            let mut zip = self.zip()?;
            let pictures = self.pictures.iter();
            let records = pictures
                .map(move |picture| Ok(record(picture, zip_entry(&mut zip, picture.place))));
            return Ok(Box::new(records.chain(missing)));
        }
        // An iterator cannot own both the archive and the entries that borrow from it, so a thread
        // reads ahead.
        let (sender, receiver) = std::sync::mpsc::sync_channel(READ_AHEAD);
        let mut tar = self.tar()?;
        let path = self.path.clone();
        let places: Vec<usize> = self.pictures.iter().map(|picture| picture.place).collect();
        std::thread::spawn(move || {
            let mut remaining = places.into_iter().peekable();
            let entries = match tar.entries() {
                Ok(entries) => entries,
                Err(e) => return drop(sender.send(Err(DataError::io(&path)(e)))),
            };
            for (place, entry) in entries.enumerate() {
                let content = match entry {
                    Ok(_) if remaining.peek() != Some(&place) => continue,
                    Ok(mut entry) => Ok(read_limited(&mut entry)),
                    Err(e) => Err(DataError::io(&path)(e)),
                };
                remaining.next();
                let last = content.is_err() || remaining.peek().is_none();
                if sender.send(content).is_err() || last {
                    return;
                }
            }
        });
        let records = self.pictures.iter().map(move |picture| {
            let content =
                receiver.recv().map_err(|_| self.damaged("it changed while it was read"))?;
            content.map(|content| record(picture, content))
        });
        Ok(Box::new(records.chain(missing)))
    }
}

/// How many files the thread reads in advance.
const READ_AHEAD: usize = 16;

fn zip_entry(zip: &mut zip::ZipArchive<impl Read + Seek>, place: usize) -> Result<Vec<u8>, String> {
    let mut entry = zip.by_index(place).map_err(|e| e.to_string())?;
    read_limited(&mut entry)
}

fn read_at_most(entry: impl Read, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    entry.take(most).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Reads an entry of at most [`MAX_FILE_BYTES`], whatever its header claims.
fn read_limited(entry: &mut impl Read) -> Result<Vec<u8>, String> {
    let bytes = read_at_most(entry, MAX_FILE_BYTES + 1)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("more than the {MAX_FILE_BYTES} bytes that a picture file may have"));
    }
    Ok(bytes)
}

/// A name without the components ``, `.` and `..`. (Nothing is ever unpacked to such a path.)
fn normalised(name: &str) -> String {
    let components: Vec<&str> =
        name.split('/').filter(|component| !["", ".", ".."].contains(component)).collect();
    components.join("/")
}
