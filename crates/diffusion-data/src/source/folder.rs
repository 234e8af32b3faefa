//! Folders of pictures.

use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::listing::{self, Labels, TABLES};
use super::{Content, Found, Record, Records, Split};
use crate::DataError;
use crate::dataset::hash::StableHasher;
use crate::error::listed;

const EXPECTED: &str =
    "files ending in .png, .jpg, .webp, .bmp or .gif, or IDX, CIFAR or parquet files";
/// Folders are followed so deep.
const MAX_DEPTH: usize = 32;

/// Files below a folder, sorted by name.
#[derive(Debug)]
pub(super) struct Files {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    label: Option<u32>,
    /// The file, its length and time; or why there is none.
    file: Result<(PathBuf, (u64, u128)), String>,
}

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

/// The folder of one part where `path` has parts named so, and the part's name.
pub(super) fn part(path: &Path, split: Split) -> (PathBuf, Option<&'static str>) {
    let part = listing::part(|name| path.join(name).is_dir(), split);
    (part.map_or_else(|| path.to_owned(), |part| path.join(part)), part)
}

/// The parquet files of a folder, or of its folder `data`; those of one part where their names have parts.
pub(super) fn shards(path: &Path, split: Split) -> Vec<PathBuf> {
    let in_folder = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let files: Vec<_> =
            entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        // Beside pictures a table may have any form.
        if files.iter().any(|file| listing::is_picture(&relative(folder, file))) {
            return Vec::new();
        }
        let mut files: Vec<_> = files
            .into_iter()
            .filter(|file| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet")))
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
        let wanted: &[&str] = if split == Split::Train { &train } else { &test };
        files.retain(|file| starts(file, wanted));
    }
    files
}

/// All pictures below `root`, which is the folder of `part` in the folder of a set, or that folder itself.
pub(super) fn open(root: &Path, part: Option<&str>) -> Result<Found<Files>, DataError> {
    let mut entries = Vec::new();
    let mut others = Vec::new();
    let walk = WalkDir::new(root).follow_links(true).max_depth(MAX_DEPTH).sort_by_file_name();
    for item in walk.into_iter().filter_entry(|entry| !is_run(entry.path())) {
        match item {
            Ok(item) if item.file_type().is_dir() => {}
            Ok(item) => {
                let name = relative(root, item.path());
                if !listing::is_picture(&name) {
                    others.push(name);
                    continue;
                }
                let stamp = listing::stamp(fs::metadata(item.path()));
                entries.push(Entry { name, label: None, file: Ok((item.into_path(), stamp)) });
            }
            Err(error) if error.depth() == 0 => {
                return Err(DataError::io(root)(error.into()));
            }
            Err(error) => {
                let name = error.path().map_or_else(String::new, |path| relative(root, path));
                let gone =
                    error.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound);
                if gone && !listing::is_picture(&name) {
                    continue;
                }
                let reason = match error.loop_ancestor() {
                    Some(_) => "a link to a folder that it lies in".to_owned(),
                    None => error
                        .into_io_error()
                        .map_or_else(|| "cannot be read".to_owned(), |e| e.to_string()),
                };
                entries.push(Entry { name, label: None, file: Err(reason) });
            }
        }
    }
    if !entries.iter().any(|entry| entry.file.is_ok()) {
        return Err(DataError::NothingFound {
            path: root.to_owned(),
            expected: EXPECTED,
            found: listed(&others),
        });
    }
    let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
    let table_in =
        |folder: &Path| TABLES.iter().map(|table| folder.join(table)).find(|table| table.is_file());
    let above = part.and_then(|part| Some((part, table_in(root.parent()?)?)));
    let labels = match (table_in(root), above) {
        (Some(table), _) => by_table(&names, &table)?,
        (None, Some((part, table))) => {
            let names: Vec<String> = names.iter().map(|name| format!("{part}/{name}")).collect();
            let labels = by_table(&names, &table)?;
            // The table is about the other parts too.
            Labels {
                missing: labels
                    .missing
                    .into_iter()
                    .filter(|name| name.starts_with(&format!("{part}/")))
                    .collect(),
                ..labels
            }
        }
        (None, None) => listing::by_folder(&names),
    };
    for (entry, label) in entries.iter_mut().zip(labels.of) {
        entry.label = label;
    }
    let missing = labels.missing.into_iter();
    entries.extend(missing.map(|name| Entry {
        name,
        label: None,
        file: Err("listed in the table of labels, but not there".to_owned()),
    }));
    Ok(Found { count: entries.len(), classes: labels.classes, kind: Files { entries } })
}

/// One picture by itself.
pub(super) fn one(path: &Path) -> Found<Files> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = Ok((path.to_owned(), listing::stamp(fs::metadata(path))));
    Found {
        kind: Files { entries: vec![Entry { name, label: None, file }] },
        classes: Vec::new(),
        count: 1,
    }
}

fn by_table(names: &[String], table: &Path) -> Result<Labels, DataError> {
    let mismatch = |problem: String| DataError::unusable(table, problem);
    let length = fs::metadata(table).map_err(DataError::io(table))?.len();
    if length > listing::MAX_TABLE_BYTES {
        return Err(mismatch(format!("{length} bytes are too many for a table of labels")));
    }
    let content = fs::read(table).map_err(DataError::io(table))?;
    listing::by_table(names, &table.to_string_lossy(), &content).map_err(mismatch)
}

/// The name of a file below `root`, with `/` between its folders on every system.
fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

/// Whether a folder is that of a training, whose pictures nobody wants to train on.
fn is_run(path: &Path) -> bool {
    path.join("checkpoints").is_dir() && path.join("config.toml").is_file()
}
