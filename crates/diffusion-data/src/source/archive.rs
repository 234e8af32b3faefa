//! Pictures in tar and zip archives, read where they lie: nothing is unpacked to disk.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::listing::{self, TABLES};
use super::{Content, Found, Record, Records};
use crate::DataError;
use crate::config::Split;
use crate::error::listed;
use crate::prepare::decode::MAX_FILE_BYTES;

/// An archive and the label of each picture in it, in the archive's order.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    format: Format,
    pictures: Vec<Picture>,
    /// Names in a table of labels that the archive does not hold.
    missing: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Tar,
    GzippedTar,
    Zip,
}

/// A picture: its place among the entries, its name without the folder that all share, its label.
#[derive(Debug)]
struct Picture {
    place: usize,
    name: String,
    label: Option<u32>,
}

/// Whether a file's first 512 bytes are those of a tar archive.
pub(super) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// The first bytes of a gzipped file, unpacked; fewer where it is damaged.
pub(super) fn gunzipped_head(path: &Path) -> Result<Vec<u8>, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    let mut head = Vec::new();
    // What cannot be unpacked is recognised as nothing.
    let _ = MultiGzDecoder::new(BufReader::new(file)).take(512).read_to_end(&mut head);
    Ok(head)
}

pub(super) fn open(path: &Path, split: Split) -> Result<Found<Archive>, DataError> {
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
            found: listed(&others),
        });
    }
    // The folder that all share is that of the set.
    let shared = listing::shared_folder(&names).len();
    let prefix = names[0][..shared].to_owned();
    let mut named: Vec<(usize, String)> =
        places.into_iter().zip(names.into_iter().map(|name| name[shared..].to_owned())).collect();
    let begins =
        |folder: &str| named.iter().any(|(_, name)| name.starts_with(&format!("{folder}/")));
    let part = listing::part(begins, split);
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
    let labelled = named.into_iter().zip(labels.of);
    archive.pictures =
        labelled.map(|((place, name), label)| Picture { place, name, label }).collect();
    archive.missing = labels.missing;
    Ok(Found { count: archive.pictures.len(), classes: labels.classes, kind: archive })
}

/// Calls with an entry's place and name, and something that reads it, or says in words why it cannot be read.
type Visitor<'v> = dyn FnMut(
        usize,
        &str,
        &mut dyn FnMut() -> Result<Result<Vec<u8>, String>, DataError>,
    ) -> Result<(), DataError>
    + 'v;

impl Archive {
    pub(super) fn what(&self) -> &'static str {
        match self.format {
            Format::Tar => "a tar archive",
            Format::GzippedTar => "a gzipped tar archive",
            Format::Zip => "a zip archive",
        }
    }

    fn damaged(&self, problem: &str) -> DataError {
        DataError::unusable(&self.path, format!("{}: {problem}", self.what()))
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

    /// The file at one place.
    fn read(&self, wanted: usize) -> Result<Result<Vec<u8>, String>, DataError> {
        let mut found = Err("it is gone".to_owned());
        self.visit(&mut |place, _, content| {
            if place == wanted {
                found = content()?;
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// All regular files, in order.
    fn visit(&self, visitor: &mut Visitor<'_>) -> Result<(), DataError> {
        if self.format == Format::Zip {
            let mut zip = self.zip()?;
            for place in 0..zip.len() {
                let name = {
                    let entry =
                        zip.by_index_raw(place).map_err(|e| self.damaged(&e.to_string()))?;
                    entry.is_file().then(|| {
                        normal(&String::from_utf8_lossy(entry.name_raw()).replace('\\', "/"))
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
                entry.map_err(|e| self.damaged(&format!("damaged behind entry {place}: {e}")))?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = normal(&String::from_utf8_lossy(&entry.path_bytes()));
            visitor(place, &name, &mut || Ok(limited(&mut entry)))?;
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
        // The entries borrow their archive, which an iterator cannot hold beside them: a thread reads ahead instead.
        let (sender, receiver) = std::sync::mpsc::sync_channel(READ_AHEAD);
        let mut tar = self.tar()?;
        let path = self.path.clone();
        let places: Vec<usize> = self.pictures.iter().map(|picture| picture.place).collect();
        std::thread::spawn(move || {
            let mut wanted = places.into_iter().peekable();
            let entries = match tar.entries() {
                Ok(entries) => entries,
                Err(e) => return drop(sender.send(Err(DataError::io(&path)(e)))),
            };
            for (place, entry) in entries.enumerate() {
                let content = match entry {
                    Ok(_) if wanted.peek() != Some(&place) => continue,
                    Ok(mut entry) => Ok(limited(&mut entry)),
                    Err(e) => Err(DataError::io(&path)(e)),
                };
                wanted.next();
                let last = content.is_err() || wanted.peek().is_none();
                if sender.send(content).is_err() || last {
                    return;
                }
            }
        });
        let records = self.pictures.iter().map(move |picture| {
            let content =
                receiver.recv().map_err(|_| self.damaged("it was changed while it was read"))?;
            content.map(|content| record(picture, content))
        });
        Ok(Box::new(records.chain(missing)))
    }
}

/// Files that a thread may have read before they are asked for.
const READ_AHEAD: usize = 16;

fn zip_entry(zip: &mut zip::ZipArchive<impl Read + Seek>, place: usize) -> Result<Vec<u8>, String> {
    let mut entry = zip.by_index(place).map_err(|e| e.to_string())?;
    limited(&mut entry)
}

/// The bytes of an entry, whatever length it claims.
fn limited(entry: &mut impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    entry.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("more than the {MAX_FILE_BYTES} bytes that a picture's file may have"));
    }
    Ok(bytes)
}

/// A name without the steps that lead nowhere or out of the archive, which is not unpacked anyway.
fn normal(name: &str) -> String {
    let steps: Vec<&str> = name.split('/').filter(|step| !["", ".", ".."].contains(step)).collect();
    steps.join("/")
}
