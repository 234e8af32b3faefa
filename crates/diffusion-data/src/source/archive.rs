//! Pictures in tar and zip archives. Nothing is unpacked to disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::kind::{self, FileKind, HEAD_BYTES};
use super::listing::{self, ListedFile, Listing};
use super::{Content, Record, Records, SourceInfo, table};
use crate::DataError;
use crate::config::Split;
use crate::error::first_names;
use crate::prepare::decode::MAX_FILE_BYTES;

/// What an archive should contain, for an error.
const EXPECTED: &str = "files ending in .png, .jpg, .webp, .bmp, .gif or .tif (data files of other \
                        formats are read once they are unpacked)";

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

/// A picture: its name without the folder that all pictures share, and its label.
#[derive(Debug)]
struct Picture {
    /// The index of the entry with its content.
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
    let (mut places, mut listed, mut links) = (Vec::new(), Vec::new(), Vec::new());
    archive.visit(&mut |entry, read| {
        let Entry { place, name, link } = entry;
        if let Some(target) = link {
            links.push((listed.len(), target.to_owned()));
            places.push(place);
            listed.push(ListedFile { name: name.to_owned(), kind: FileKind::Other, table: None });
            return Ok(());
        }
        let kind = kind::kind_of(name, || read(HEAD_BYTES as u64).unwrap_or_default());
        let table = (kind == FileKind::Table).then(|| read(table::MAX_BYTES + 1));
        listed.push(ListedFile { name: name.to_owned(), kind, table });
        places.push(place);
        Ok(())
    })?;
    let lost = follow(&links, &mut listed, &mut places);
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
    if lost > 0 {
        list.notes.push(format!("{lost} links lead to no file of the archive"));
    }
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

/// Gives each link the kind, the table and the place of the file that it leads to. Returns the
/// number of links that lead to no file.
fn follow(links: &[(usize, String)], listed: &mut [ListedFile], places: &mut [usize]) -> usize {
    /// Links to links are followed this often.
    const MAX_LINKS: usize = 8;
    let targets: HashMap<usize, &String> = links.iter().map(|(i, target)| (*i, target)).collect();
    let by_name: HashMap<String, usize> =
        listed.iter().enumerate().map(|(i, file)| (file.name.clone(), i)).collect();
    let file_of = |link: usize| {
        let mut at = link;
        for _ in 0..MAX_LINKS {
            let Some(target) = targets.get(&at) else { return Some(at) };
            at = *by_name.get(*target)?;
        }
        None
    };
    let mut lost = 0;
    for (link, _) in links {
        let Some(file) = file_of(*link) else {
            listed[*link].kind = FileKind::Hidden;
            lost += 1;
            continue;
        };
        let (kind, table) = (listed[file].kind, listed[file].table.clone());
        places[*link] = places[file];
        (listed[*link].kind, listed[*link].table) = (kind, table);
    }
    lost
}

/// A file of an archive, or a link.
struct Entry<'e> {
    /// Its index among the entries.
    place: usize,
    name: &'e str,
    /// The name of the file that a link leads to.
    link: Option<&'e str>,
}

/// The name that a symbolic link in the file `name` leads to.
fn link_target(name: &str, target: &str) -> String {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Reads at most the given number of bytes of an entry.
type ReadEntry<'r> = dyn FnMut(u64) -> Result<Vec<u8>, String> + 'r;

/// A callback that receives an entry, and a function that reads it once.
type Visitor<'v> = dyn FnMut(Entry<'_>, &mut ReadEntry<'_>) -> Result<(), DataError> + 'v;

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

    /// Visits all files and links, in order.
    fn visit(&self, visitor: &mut Visitor<'_>) -> Result<(), DataError> {
        if self.format == Format::Zip {
            let mut zip = self.zip()?;
            for place in 0..zip.len() {
                let (name, is_link) = {
                    let entry =
                        zip.by_index_raw(place).map_err(|e| self.damaged(&e.to_string()))?;
                    if !entry.is_file() && !entry.is_symlink() {
                        continue;
                    }
                    let name: Vec<u8> = entry.name_raw().to_vec();
                    let slashes = name.into_iter().map(|b| if b == b'\\' { b'/' } else { b });
                    let name = normalised(&kind::text_of(&slashes.collect::<Vec<u8>>()));
                    (name, entry.is_symlink())
                };
                let mut read = |most| {
                    let entry = zip.by_index(place).map_err(|e| e.to_string())?;
                    read_at_most(entry, most)
                };
                let link = if is_link { read(MAX_LINK_BYTES).ok() } else { None };
                let link = link.map(|target| link_target(&name, &kind::text_of(&target)));
                visitor(Entry { place, name: &name, link: link.as_deref() }, &mut read)?;
            }
            return Ok(());
        }
        let mut tar = self.tar()?;
        for (place, entry) in tar.entries().map_err(|e| self.damaged(&e.to_string()))?.enumerate() {
            let mut entry =
                entry.map_err(|e| self.damaged(&format!("damaged after entry {place}: {e}")))?;
            let kind = entry.header().entry_type();
            if !kind.is_file() && !kind.is_symlink() && !kind.is_hard_link() {
                continue;
            }
            let name = normalised(&kind::text_of(&entry.path_bytes()));
            let target = entry.link_name_bytes().map(|target| kind::text_of(&target));
            let link = target.filter(|_| !kind.is_file()).map(|target| {
                // A hard link names a file of the archive, a symbolic one a path from its folder.
                if kind.is_symlink() { link_target(&name, &target) } else { normalised(&target) }
            });
            let entry_info = Entry { place, name: &name, link: link.as_deref() };
            visitor(entry_info, &mut |most| read_at_most(&mut entry, most))?;
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
            let entries = match tar.entries() {
                Ok(entries) => entries,
                Err(e) => return drop(sender.send(Err(DataError::io(&path)(e)))),
            };
            let mut uses: HashMap<usize, usize> = HashMap::new();
            for place in &places {
                *uses.entry(*place).or_default() += 1;
            }
            // What links need later, or what comes before a picture that is sent first.
            let mut kept: HashMap<usize, Result<Vec<u8>, String>> = HashMap::new();
            let mut next = places.iter().peekable();
            for (place, entry) in entries.enumerate() {
                match entry {
                    Ok(mut entry) if uses.contains_key(&place) => {
                        kept.insert(place, read_limited(&mut entry));
                    }
                    Ok(_) => {}
                    Err(e) => return drop(sender.send(Err(DataError::io(&path)(e)))),
                }
                while let Some(wanted) = next.next_if(|wanted| kept.contains_key(wanted)) {
                    let left = uses.entry(*wanted).or_default();
                    *left = left.saturating_sub(1);
                    let content =
                        if *left == 0 { kept.remove(wanted) } else { kept.get(wanted).cloned() };
                    if content.is_none_or(|content| sender.send(Ok(content)).is_err()) {
                        return;
                    }
                }
                if next.peek().is_none() {
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

/// The maximum length of the path in a link of a zip archive, in bytes.
const MAX_LINK_BYTES: u64 = 4096;

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
