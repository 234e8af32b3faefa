//! Folders of pictures.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::kind::{self, FileKind, HEAD_BYTES};
use super::listing::{self, ListedFile, Listing, Stamp};
use super::{Content, PictureFiles, Record, Records, SourceInfo, Split, table};
use crate::DataError;
use crate::dataset::hash::StableHasher;
use crate::error::first_names;

/// The maximum depth of folders below the source.
const MAX_DEPTH: usize = 32;

/// The pictures below a folder, sorted by name.
#[derive(Debug)]
pub(super) struct Files {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    label: Option<u32>,
    file: FoundFile,
}

/// The path of a file and its state; or why it cannot be used.
type FoundFile = Result<(PathBuf, Stamp), String>;

impl Files {
    pub(super) fn records(&self) -> Records<'_> {
        Box::new(self.entries.iter().map(|entry| {
            let content = entry.file.as_ref().map(|(path, _)| Content::File(path.clone()));
            Ok(Record {
                name: entry.name.clone(),
                label: entry.label,
                content: content.map_err(Clone::clone),
            })
        }))
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = StableHasher::default();
        for entry in &self.entries {
            hash.write(entry.name.as_bytes());
            (entry.label, entry.file.as_ref().ok().map(|(_, stamp)| stamp)).hash(&mut hash);
        }
        hash.finish()
    }
}

/// The parquet files of a folder or of its subfolder `data`. If their names begin with a split,
/// only the files of `split`.
pub(super) fn shards(path: &Path, split: Split) -> Vec<PathBuf> {
    let in_folder = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let is_parquet =
            |file: &PathBuf| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"));
        let mut files: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_file() && is_parquet(path))
            .collect();
        files.sort();
        files
    };
    let mut files = in_folder(path);
    if files.is_empty() {
        files = in_folder(&path.join("data"));
    }
    let starts = |file: &PathBuf, names: &[&str]| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        names.iter().any(|start| name.starts_with(start))
    };
    let (train, test) = (["train"], ["test", "val"]);
    if files.iter().any(|file| starts(file, &train)) && files.iter().any(|file| starts(file, &test))
    {
        let prefixes: &[&str] = if split == Split::Train { &train } else { &test };
        files.retain(|file| starts(file, prefixes));
    }
    files
}

/// All files below a folder.
#[derive(Debug)]
pub(super) struct FolderFiles {
    listed: Vec<ListedFile>,
    folders: Vec<String>,
    files: Vec<FoundFile>,
}

impl FolderFiles {
    /// Finds all files below `root`, in the order of their names. Hidden folders and the folders of
    /// runs are left out.
    pub(super) fn find(root: &Path) -> Result<Self, DataError> {
        let mut found = Self { listed: Vec::new(), folders: Vec::new(), files: Vec::new() };
        let walk = WalkDir::new(root).follow_links(true).max_depth(MAX_DEPTH).sort_by_file_name();
        for item in walk.into_iter().filter_entry(|entry| !is_run_folder(entry.path())) {
            match item {
                Ok(item) if item.file_type().is_dir() => {
                    found.folders.push(relative(root, item.path()));
                }
                Ok(item) => {
                    let path = item.into_path();
                    let name = relative(root, &path);
                    let kind = kind::kind_of(&name, || head(&path));
                    let table = (kind == FileKind::Table).then(|| read_table(&path));
                    let stamp = listing::stamp(fs::metadata(&path));
                    found.listed.push(ListedFile { name, kind, table });
                    found.files.push(Ok((path, stamp)));
                }
                Err(error) if error.depth() == 0 => {
                    return Err(DataError::io(root)(error.into()));
                }
                Err(error) => {
                    let name = error.path().map_or_else(String::new, |path| relative(root, path));
                    let gone =
                        error.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound);
                    if gone && !kind::has_picture_ending(&name) {
                        continue;
                    }
                    let reason = match error.loop_ancestor() {
                        Some(_) => "a link to a folder that contains it".to_owned(),
                        None => error
                            .into_io_error()
                            .map_or_else(|| "cannot be read".to_owned(), |e| e.to_string()),
                    };
                    found.listed.push(ListedFile { name, kind: FileKind::Other, table: None });
                    found.files.push(Err(reason));
                }
            }
        }
        Ok(found)
    }

    /// Whether there is a picture.
    pub(super) fn has_pictures(&self) -> bool {
        self.listed.iter().any(|file| file.kind == FileKind::Picture)
    }

    /// The first file that Git LFS has not downloaded.
    pub(super) fn first_pointer(&self) -> Option<&str> {
        let mut pointers = self.listed.iter().filter(|file| file.kind == FileKind::Pointer);
        pointers.next().map(|file| file.name.as_str())
    }

    /// All pictures, of any split.
    pub(super) fn pictures(self) -> PictureFiles {
        let mut notes = listing::unused(&self.listed);
        let mut files = Vec::new();
        for (ListedFile { name, kind, .. }, file) in self.listed.into_iter().zip(self.files) {
            match file {
                Ok((path, _)) if kind == FileKind::Picture => files.push((name, path)),
                Ok(_) => {}
                Err(problem) => notes.push(format!("{name}: {problem}")),
            }
        }
        PictureFiles { files, notes }
    }

    /// The names of all files, for an error.
    pub(super) fn names(&self) -> Vec<String> {
        self.listed.iter().map(|file| file.name.clone()).collect()
    }

    /// The pictures of `split`, the name of its folder, and notes.
    pub(super) fn open(
        mut self,
        root: &Path,
        split: Split,
    ) -> Result<(SourceInfo<Files>, Listing), DataError> {
        // What cannot be read is reported as a damaged picture, and not among the unused files.
        let damaged: Vec<usize> =
            (0..self.files.len()).filter(|&i| self.files[i].is_err()).collect();
        for &i in &damaged {
            self.listed[i].kind = FileKind::Hidden;
        }
        let mut list = Listing::new(&self.listed, split)
            .map_err(|(table, problem)| DataError::unusable(&root.join(table), problem))?;
        let prefix =
            list.part.as_ref().map_or_else(String::new, |part| format!("{}{part}/", list.shared));
        let empty = self.empty_classes(list.part.as_ref().map_or(&list.shared, |_| &prefix), &list);
        if !empty.is_empty() {
            list.notes.push(format!("no pictures in the folders {}", first_names(&empty)));
        }
        let below = |name: &str| name.strip_prefix(&prefix).map(str::to_owned);
        let mut places = std::mem::take(&mut list.pictures);
        places.extend(damaged.into_iter().map(|place| (place, None)));
        places.sort_by_key(|(place, _)| *place);
        let mut entries: Vec<Entry> = places
            .into_iter()
            .filter_map(|(place, label)| {
                let name = below(&self.listed[place].name)?;
                Some(Entry { name, label, file: self.files[place].clone() })
            })
            .collect();
        entries.extend(list.missing.iter().map(|name| Entry {
            name: below(name).unwrap_or_else(|| name.clone()),
            label: None,
            file: Err(listing::MISSING.to_owned()),
        }));
        let classes = std::mem::take(&mut list.classes);
        Ok((SourceInfo { count: entries.len(), classes, kind: Files { entries } }, list))
    }
}

impl FolderFiles {
    /// The folders beside those of the classes, in `base`, that contain neither pictures nor
    /// sheets, which have a note of their own.
    fn empty_classes(&self, base: &str, list: &Listing) -> Vec<String> {
        let pictures = list.pictures.iter().map(|(place, _)| &self.listed[*place]);
        let sheets = self.listed.iter().filter(|file| file.kind == FileKind::Sheet);
        let used: HashSet<&str> = pictures
            .chain(sheets)
            .map(|file| file.name.as_str())
            .filter_map(|name| name.strip_prefix(base)?.split_once('/'))
            .map(|(folder, _)| folder)
            .collect();
        let siblings: Vec<&str> = self
            .folders
            .iter()
            .filter_map(|name| name.strip_prefix(base))
            .filter(|name| !name.is_empty() && !name.contains('/') && !name.starts_with('.'))
            .collect();
        let classes: HashSet<&str> = list.classes.iter().map(String::as_str).collect();
        if !siblings.iter().any(|name| classes.contains(name)) {
            return Vec::new();
        }
        siblings.into_iter().filter(|name| !used.contains(name)).map(str::to_owned).collect()
    }
}

/// The first bytes of a file; none if it cannot be read.
fn head(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Reading a pipe would block until something writes to it.
    if path.is_file() {
        let file = File::open(path);
        let _ = file.and_then(|file| file.take(HEAD_BYTES as u64).read_to_end(&mut bytes));
    }
    bytes
}

fn read_table(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    if metadata.len() > table::MAX_BYTES {
        let (most, length) = (table::MAX_BYTES, metadata.len());
        return Err(format!("a table of labels has at most {most} bytes, got {length}"));
    }
    fs::read(path).map_err(|e| e.to_string())
}

/// Opens a single picture file.
pub(super) fn open_one(path: &Path) -> SourceInfo<Files> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = Ok((path.to_owned(), listing::stamp(fs::metadata(path))));
    SourceInfo {
        kind: Files { entries: vec![Entry { name, label: None, file }] },
        classes: Vec::new(),
        count: 1,
    }
}

/// The path of a file relative to `root`, with `/` as separator on every system.
fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = path.iter().map(|part| kind::text_of(part.as_encoded_bytes())).collect();
    parts.join("/")
}

/// Whether a folder is a training run. Its sample images must not become training data.
fn is_run_folder(path: &Path) -> bool {
    path.join("checkpoints").is_dir() && path.join("config.toml").is_file()
}
