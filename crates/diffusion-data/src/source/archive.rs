//! Pictures in tar and zip archives, read where they lie: nothing is unpacked to disk.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::listing::{self, TABLES};
use super::{Content, Found, Record, Records};
use crate::DataError;
use crate::decode::MAX_FILE_BYTES;
use crate::error::listed;

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

pub(super) fn open(path: &Path) -> Result<Found<Archive>, DataError> {
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(2).read_to_end(&mut head)).map_err(DataError::io(path))?;
    let format = match head.as_slice() {
        b"PK" => Format::Zip,
        [0x1f, 0x8b] => Format::GzippedTar,
        _ => Format::Tar,
    };
    let mut archive = Archive { path: path.to_owned(), format, pictures: Vec::new(), missing: Vec::new() };
    let (mut names, mut tables, mut others) = (Vec::new(), Vec::new(), Vec::new());
    archive.visit(&mut |place, name, content| {
        let table = TABLES.iter().position(|table| name.rsplit('/').next() == Some(table));
        if listing::is_picture(name) {
            names.push((place, name.to_owned()));
        } else if let Some(rank) = table {
            tables.push((name.matches('/').count(), rank, name.to_owned(), content()?));
        } else {
            others.push(name.to_owned());
        }
        Ok(())
    })?;
    if names.is_empty() {
        let expected = "files ending in .png, .jpg, .webp, .bmp or .gif";
        return Err(DataError::NothingFound { path: path.to_owned(), expected, found: listed(&others) });
    }
    let shared = shared_folder(names.iter().map(|(_, name)| name.as_str()));
    let short: Vec<String> = names.iter().map(|(_, name)| name[shared.len()..].to_owned()).collect();
    // A table at the top, where a folder would have it.
    tables.retain(|(_, _, name, _)| name.strip_prefix(&shared).unwrap_or(name).matches('/').count() == 0);
    tables.sort();
    let labels = match tables.first() {
        Some((_, _, table, content)) => content
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|content| listing::by_table(&short, table, content))
            .map_err(|problem| archive.damaged(&format!("{table}: {problem}")))?,
        None => listing::by_folder(&short),
    };
    let places = names.iter().map(|(place, _)| *place);
    let named = places.zip(short).zip(labels.of);
    archive.pictures = named.map(|((place, name), label)| Picture { place, name, label }).collect();
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
        DataError::Mismatch { path: self.path.clone(), problem: format!("{}: {problem}", self.what()) }
    }

    fn file(&self) -> Result<BufReader<File>, DataError> {
        Ok(BufReader::with_capacity(1 << 16, File::open(&self.path).map_err(DataError::io(&self.path))?))
    }

    fn tar(&self) -> Result<tar::Archive<Box<dyn Read + Send>>, DataError> {
        let file = self.file()?;
        let read: Box<dyn Read + Send> = match self.format {
            Format::GzippedTar => Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file))),
            _ => Box::new(file),
        };
        Ok(tar::Archive::new(read))
    }

    fn zip(&self) -> Result<zip::ZipArchive<BufReader<File>>, DataError> {
        zip::ZipArchive::new(self.file()?).map_err(|e| self.damaged(&e.to_string()))
    }

    /// All regular files, in order.
    fn visit(&self, visitor: &mut Visitor<'_>) -> Result<(), DataError> {
        if self.format == Format::Zip {
            let mut zip = self.zip()?;
            for place in 0..zip.len() {
                let name = {
                    let entry = zip.by_index_raw(place).map_err(|e| self.damaged(&e.to_string()))?;
                    let name = String::from_utf8_lossy(entry.name_raw()).replace('\\', "/");
                    entry.is_file().then_some(name)
                };
                let Some(name) = name else { continue };
                visitor(place, &name, &mut || Ok(zip_entry(&mut zip, place)))?;
            }
            return Ok(());
        }
        let mut tar = self.tar()?;
        for (place, entry) in tar.entries().map_err(|e| self.damaged(&e.to_string()))?.enumerate() {
            let mut entry = entry.map_err(|e| self.damaged(&format!("damaged behind entry {place}: {e}")))?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
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
            let records =
                pictures.map(move |picture| Ok(record(picture, zip_entry(&mut zip, picture.place))));
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
            let content = receiver.recv().map_err(|_| self.damaged("it was changed while it was read"))?;
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

/// The folders, with a `/` behind each, that all names begin with.
fn shared_folder<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    let folder = |name: &'a str| name.rfind('/').map_or("", |end| &name[..=end]);
    let first = names.next().map_or("", folder);
    let shared = names.fold(first, |shared, name| {
        let equal = shared.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        let end = shared.as_bytes()[..equal].iter().rposition(|byte| *byte == b'/');
        end.map_or("", |end| &shared[..=end])
    });
    shared.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_that_all_share_is_no_class() {
        let shared = |names: &[&'static str]| shared_folder(names.iter().copied());
        assert_eq!(shared(&["./set/cat/a.png", "./set/cow/b.png"]), "./set/");
        assert_eq!(shared(&["set/a.png", "set/b.png"]), "set/");
        assert_eq!(shared(&["é/a.png", "è/b.png"]), "");
        assert_eq!(shared(&["a.png", "x/b.png"]), "");
    }
}
