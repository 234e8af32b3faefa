//! Pictures in tar and zip archives. Nothing is unpacked to disk.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::listing::{self, TABLES};
use super::{Content, Record, Records, SourceInfo};
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

pub(super) fn open(path: &Path, split: Split) -> Result<SourceInfo<Archive>, DataError> {
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
    let (mut places, mut names, mut others) = (Vec::new(), Vec::new(), Vec::new());
    archive.visit(&mut |place, name, _| {
        if listing::is_picture(name) {
            places.push(place);
            names.push(name.to_owned());
        } else {
            others.push((place, name.to_owned()));
        }
        Ok(())
    })?;
    if names.is_empty() {
        let expected = "files ending in .png, .jpg, .webp, .bmp or .gif";
        let others: Vec<String> = others.into_iter().map(|(_, name)| name).collect();
        return Err(DataError::NothingFound {
            path: path.to_owned(),
            expected,
            found: first_names(&others),
        });
    }
    // The folder that all pictures share is the folder of the set.
    let shared = listing::shared_folder(&names).len();
    let prefix = names[0][..shared].to_owned();
    let mut named: Vec<(usize, String)> =
        places.into_iter().zip(names.into_iter().map(|name| name[shared..].to_owned())).collect();
    let is_folder =
        |folder: &str| named.iter().any(|(_, name)| name.starts_with(&format!("{folder}/")));
    let part = listing::split_folder(is_folder, split);
    if let Some(part) = part {
        named.retain(|(_, name)| name.starts_with(&format!("{part}/")));
    }
    let names: Vec<String> = named.iter().map(|(_, name)| name.clone()).collect();
    let table = TABLES.iter().find_map(|table| {
        others.iter().find(|(_, name)| name.strip_prefix(&prefix) == Some(table))
    });
    let labels = match table {
        Some((place, table)) => archive
            .read(*place)?
            .and_then(|content| listing::by_table(&names, table, &content))
            .map_err(|problem| archive.damaged(&format!("{table}: {problem}")))?,
        None => listing::by_folder(&names),
    };
    let labelled = named.into_iter().zip(labels.indices);
    archive.pictures =
        labelled.map(|((place, name), label)| Picture { place, name, label }).collect();
    archive.missing = labels.missing;
    Ok(SourceInfo { count: archive.pictures.len(), classes: labels.classes, kind: archive })
}

/// A callback that receives an entry's index, its name, and a function that reads it. The inner
/// error of that function is a text.
type Visitor<'v> = dyn FnMut(
        usize,
        &str,
        &mut dyn FnMut() -> Result<Result<Vec<u8>, String>, DataError>,
    ) -> Result<(), DataError>
    + 'v;

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

    /// Reads the entry with the given index.
    fn read(&self, index: usize) -> Result<Result<Vec<u8>, String>, DataError> {
        let mut result = Err("it no longer exists".to_owned());
        self.visit(&mut |place, _, content| {
            if place == index {
                result = content()?;
            }
            Ok(())
        })?;
        Ok(result)
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
                        normalised(&String::from_utf8_lossy(entry.name_raw()).replace('\\', "/"))
                    })
                };
                let Some(name) = name else { continue };
                visitor(place, &name, &mut || Ok(zip_entry(&mut zip, place)))?;
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
            let name = normalised(&String::from_utf8_lossy(&entry.path_bytes()));
            visitor(place, &name, &mut || Ok(read_limited(&mut entry)))?;
        }
        Ok(())
    }

    pub(super) fn records(&self) -> Result<Records<'_>, DataError> {
        let missing = self.missing.iter().map(|name| {
            let reason = "listed in the table of labels, but not there".to_owned();
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

/// Reads an entry of at most [`MAX_FILE_BYTES`], whatever its header claims.
fn read_limited(entry: &mut impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    entry.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
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
