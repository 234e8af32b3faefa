//! Folders of pictures.

use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::listing::{self, Labels, TABLES};
use super::{Content, Record, Records, SourceInfo, Split};
use crate::DataError;
use crate::dataset::hash::StableHasher;
use crate::error::first_names;

const EXPECTED: &str =
    "files ending in .png, .jpg, .webp, .bmp or .gif, or IDX, CIFAR or parquet files";
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
    /// The path of the file, its length and its modification time; or why it cannot be used.
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

/// The folder of the split and its name; `path` itself if it has no folders for splits.
pub(super) fn split_folder(path: &Path, split: Split) -> (PathBuf, Option<&'static str>) {
    let part = listing::split_folder(|name| path.join(name).is_dir(), split);
    (part.map_or_else(|| path.to_owned(), |part| path.join(part)), part)
}

/// The parquet files of a folder or of its subfolder `data`. If their names begin with a split,
/// only the files of `split`.
pub(super) fn shards(path: &Path, split: Split) -> Vec<PathBuf> {
    let in_folder = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let files: Vec<_> =
            entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        // A parquet file next to pictures may be a table of any kind.
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
        let prefixes: &[&str] = if split == Split::Train { &train } else { &test };
        files.retain(|file| starts(file, prefixes));
    }
    files
}

/// Opens all pictures below `root`: the folder of a set, or its subfolder `part` for one split.
pub(super) fn open(root: &Path, part: Option<&str>) -> Result<SourceInfo<Files>, DataError> {
    let mut entries = Vec::new();
    let mut others = Vec::new();
    let walk = WalkDir::new(root).follow_links(true).max_depth(MAX_DEPTH).sort_by_file_name();
    for item in walk.into_iter().filter_entry(|entry| !is_run_folder(entry.path())) {
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
                    Some(_) => "a link to a folder that contains it".to_owned(),
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
            found: first_names(&others),
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
            // The table also lists the pictures of the other splits.
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
    for (entry, label) in entries.iter_mut().zip(labels.indices) {
        entry.label = label;
    }
    let missing = labels.missing.into_iter();
    entries.extend(missing.map(|name| Entry {
        name,
        label: None,
        file: Err("listed in the table of labels, but not there".to_owned()),
    }));
    Ok(SourceInfo { count: entries.len(), classes: labels.classes, kind: Files { entries } })
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

fn by_table(names: &[String], table: &Path) -> Result<Labels, DataError> {
    let mismatch = |problem: String| DataError::unusable(table, problem);
    let length = fs::metadata(table).map_err(DataError::io(table))?.len();
    if length > listing::MAX_TABLE_BYTES {
        return Err(mismatch(format!(
            "a table of labels has at most {} bytes, got {length}",
            listing::MAX_TABLE_BYTES
        )));
    }
    let content = fs::read(table).map_err(DataError::io(table))?;
    listing::by_table(names, &table.to_string_lossy(), &content).map_err(mismatch)
}

/// The path of a file relative to `root`, with `/` as separator on every system.
fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

/// Whether a folder is a training run. Its sample images must not become training data.
fn is_run_folder(path: &Path) -> bool {
    path.join("checkpoints").is_dir() && path.join("config.toml").is_file()
}
