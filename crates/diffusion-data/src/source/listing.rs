//! Derives classes from file names: from their folders, or from a table of labels.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use serde_json::Value;

use crate::config::Split;
use crate::dataset::classes::classes_of;
use crate::dataset::hash::StableHasher;

/// The names of tables of labels, in order of priority.
pub(super) const TABLES: [&str; 3] = ["metadata.csv", "labels.csv", "metadata.jsonl"];
const FILE_COLUMNS: [&str; 5] = ["file_name", "filename", "file", "image", "path"];
/// The names of the column of labels, in any case, in order of priority.
pub(super) const LABEL_COLUMNS: [&str; 6] =
    ["label", "labels", "class", "category", "target", "fine_label"];
/// The file that `diffusion data inspect` writes, possibly into the folder of pictures.
const CONTACT_SHEET: &str = "contact-sheet.png";
/// The maximum size of a table in bytes.
pub(super) const MAX_TABLE_BYTES: u64 = 1 << 28;
const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif"];

/// Whether `name`, a path with `/` as separator, has the extension of a picture and is neither
/// hidden nor a contact sheet.
pub(crate) fn is_picture(name: &str) -> bool {
    let hidden = name.split('/').any(|part| part.starts_with('.') || part == "__MACOSX")
        || name == CONTACT_SHEET;
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    !hidden && extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// The labels of a list of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) classes: Vec<String>,
    /// For each name of the list, the index of its class.
    pub(super) indices: Vec<Option<u32>>,
    /// Names that are in the table but not in the list.
    pub(super) missing: Vec<String>,
}

/// Labels by the first folder of each name below the folders that all names share. With fewer than
/// two such folders there are no classes.
pub(super) fn by_folder(names: &[String]) -> Labels {
    let shared = shared_folder(names).len();
    let folders: Vec<Option<&str>> =
        names.iter().map(|name| name[shared..].split_once('/').map(|(first, _)| first)).collect();
    let mut labels = by_label(folders.iter().map(|folder| folder.map(str::to_owned)).collect());
    if labels.classes.len() < 2 {
        labels = Labels { indices: vec![None; names.len()], ..Labels::default() };
    }
    labels
}

/// The longest sequence of folders that all names begin with, including its last `/`.
pub(super) fn shared_folder(names: &[String]) -> &str {
    let folder = |name: &str| name.rfind('/').map_or(0, |end| end + 1);
    let Some(first) = names.first() else { return "" };
    names.iter().fold(&first[..folder(first)], |shared, name| {
        let equal = shared.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        let end = shared.as_bytes()[..equal].iter().rposition(|byte| *byte == b'/');
        end.map_or("", |end| &shared[..=end])
    })
}

/// The name of the folder of `split`, if there are folders for training and for test pictures.
pub(super) fn split_folder(is_folder: impl Fn(&str) -> bool, split: Split) -> Option<&'static str> {
    let test = ["test", "val", "valid", "validation"].into_iter().find(|name| is_folder(name))?;
    is_folder("train").then_some(if split == Split::Train { "train" } else { test })
}

/// Labels from the table with the given name and content. If the table has no labels, they come
/// from the folders.
///
/// # Errors
/// If the table is invalid, with the reason as text and, for JSON lines, the number of the line.
pub(super) fn by_table(names: &[String], table: &str, content: &[u8]) -> Result<Labels, String> {
    let is_csv = table.strip_suffix(".csv").is_some();
    // Some editors write a byte order mark.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let rows = if is_csv { csv_rows(content)? } else { jsonl_rows(content)? };
    if rows.is_empty() {
        return Ok(by_folder(names));
    }
    let known: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let missing = rows.iter().map(|(name, _)| name).filter(|name| !known.contains(name.as_str()));
    let missing = missing.cloned().collect();
    let mut class_of: HashMap<String, String> = rows.into_iter().collect();
    let labels = by_label(names.iter().map(|name| class_of.remove(name.as_str())).collect());
    Ok(Labels { missing, ..labels })
}

fn by_label(labels: Vec<Option<String>>) -> Labels {
    let (classes, index) = classes_of(labels.iter().flatten().map(String::as_str));
    let indices = labels.iter().map(|label| label.as_ref().map(|label| index[label])).collect();
    Labels { indices, classes, missing: Vec::new() }
}

fn csv_rows(content: &[u8]) -> Result<Vec<(String, String)>, String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(content);
    let headers = reader.headers().map_err(|e| e.to_string())?.clone();
    let column = |candidates: &[&str]| {
        let position = |candidate: &&str| {
            headers.iter().position(|name| name.trim().eq_ignore_ascii_case(candidate))
        };
        candidates.iter().find_map(position)
    };
    let Some(file) = column(&FILE_COLUMNS) else {
        let found = headers.iter().collect::<Vec<_>>().join(", ");
        return Err(format!(
            "its first line must name the columns file_name and label; it names {found}"
        ));
    };
    // The table contains something else, such as captions.
    let Some(label) = column(&LABEL_COLUMNS) else { return Ok(Vec::new()) };
    let rows = reader.records().map(|row| {
        let row = row.map_err(|e| e.to_string())?;
        Ok((
            normalised(row.get(file).unwrap_or("")),
            row.get(label).unwrap_or("").trim().to_owned(),
        ))
    });
    rows.filter(|row| row.as_ref().map_or(true, |(_, label)| !label.is_empty())).collect()
}

fn jsonl_rows(content: &[u8]) -> Result<Vec<(String, String)>, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let rows = lines.map(|(number, line)| {
        let line_error = |problem: String| format!("line {}: {problem}", number + 1);
        let row: Value = serde_json::from_str(line).map_err(|e| line_error(e.to_string()))?;
        let field = |candidates: &[&str]| {
            let fields = row.as_object()?;
            let value = |name: &&str| {
                fields
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value)
            };
            candidates.iter().find_map(value)
        };
        let file = field(&FILE_COLUMNS).and_then(Value::as_str);
        let file = file.ok_or_else(|| line_error("it must have a file_name".to_owned()))?;
        let label = match field(&LABEL_COLUMNS) {
            Some(Value::String(label)) => label.clone(),
            Some(Value::Number(label)) => label.to_string(),
            Some(Value::Bool(label)) => label.to_string(),
            // Other values, such as captions or boxes, are not classes.
            _ => String::new(),
        };
        Ok((normalised(file), label))
    });
    rows.filter(|row| row.as_ref().map_or(true, |(_, label)| !label.is_empty())).collect()
}

/// A name from a table in the form of the listing: `/` as separator, without `./` at the start.
fn normalised(name: &str) -> String {
    let name = name.trim().replace('\\', "/");
    name.strip_prefix("./").map_or(name.clone(), str::to_owned)
}

/// A hash of the names, lengths and modification times of files.
pub(super) fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hash = StableHasher::default();
    for file in files {
        hash.write(file.to_string_lossy().as_bytes());
        stamp(fs::metadata(file)).hash(&mut hash);
    }
    hash.finish()
}

/// The length of a file in bytes, and its modification time in nanoseconds since 1970.
pub(super) fn stamp(metadata: io::Result<fs::Metadata>) -> (u64, u128) {
    let time = |metadata: &fs::Metadata| {
        metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok().map(|since| since.as_nanos())
    };
    metadata.map_or((0, 0), |metadata| (metadata.len(), time(&metadata).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_first_folder_is_the_class_and_numbers_keep_their_order() {
        let labels = by_folder(&names(&["10/a.png", "9/b.png", "9/deep/c.png", "d.png"]));
        assert_eq!(labels.classes, ["9", "10"]);
        assert_eq!(labels.indices, [Some(1), Some(0), Some(0), None]);
        assert_eq!(by_folder(&names(&["only/a.png", "only/b.png"])).classes, [""; 0]);
    }

    #[test]
    fn a_table_gives_labels_and_lists_missing_files() {
        let files = names(&["a.png", "sub/b, c.png", "d.png"]);
        let csv = b"File_Name,split,label\na.png,x,cat\n\"./sub/b, c.png\",x,dog\ngone.png,x,cat\nd.png,x,\n";
        let labels = by_table(&files, "metadata.csv", csv).unwrap();
        assert_eq!(labels.classes, ["cat", "dog"]);
        assert_eq!(labels.indices, [Some(0), Some(1), None]);
        assert_eq!(labels.missing, ["gone.png"]);
        let jsonl =
            b"{\"file_name\": \"a.png\", \"label\": 3}\n\n{\"file_name\": \"d.png\", \"label\": 20}\n";
        let labels = by_table(&files, "metadata.jsonl", jsonl).unwrap();
        assert_eq!(
            (labels.classes, labels.indices),
            (names(&["3", "20"]), vec![Some(0), None, Some(1)])
        );
        let problem = by_table(&files, "labels.csv", b"name,kind\nx,y\n").unwrap_err();
        assert!(problem.contains("file_name and label; it names name, kind"), "{problem}");
        let problem = by_table(&files, "metadata.jsonl", b"{}\n").unwrap_err();
        assert!(problem.starts_with("line 1: it must have a file_name"), "{problem}");
    }

    #[test]
    fn the_folder_that_all_names_share_is_no_class() {
        let shared = |list: &[&str]| shared_folder(&names(list)).to_owned();
        assert_eq!(shared(&["set/cat/a.png", "set/cow/b.png"]), "set/");
        assert_eq!(shared(&["set/a.png", "set/b.png"]), "set/");
        assert_eq!(shared(&["é/a.png", "è/b.png"]), "");
        assert_eq!(shared(&["a.png", "x/b.png"]), "");
        assert_eq!(by_folder(&names(&["set/cat/a.png", "set/cow/b.png"])).classes, ["cat", "cow"]);
    }

    #[test]
    fn hidden_and_other_files_are_no_pictures() {
        assert!(["a.png", "b/C.JPG", "x y/ä.webp"].iter().all(|name| is_picture(name)));
        assert!(
            [".a.png", "__MACOSX/a.png", "b/.x/c.png", "a.txt", "png"]
                .iter()
                .all(|name| !is_picture(name))
        );
    }
}
