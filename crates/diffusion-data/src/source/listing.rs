//! Which files of a folder or an archive are the pictures of a split, and what their classes are.
//!
//! All containers are lists of files to [`Listing::new`], so the same files give the same set in a
//! folder, a tar archive and a zip archive.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use super::kind::{self, FileKind};
use super::table::{self, Table};
use crate::config::Split;
use crate::dataset::classes::classes_of;
use crate::dataset::hash::StableHasher;

/// Names of folders of training pictures, and of test pictures in order of priority, in lower case
/// and without a prefix such as `seg_`.
const TRAIN_NAMES: [&str; 2] = ["train", "training"];
const TEST_NAMES: [&str; 10] = [
    "test",
    "testing",
    "val",
    "valid",
    "validation",
    "validate",
    "dev",
    "eval",
    "evaluation",
    "holdout",
];
/// Why a file that only a table names cannot be used.
pub(super) const MISSING: &str = "listed in the table of labels, but not there";
/// How many kinds of unused files a note names.
const MAX_NAMED: usize = 6;

/// A file of a folder or an archive.
#[derive(Debug)]
pub(super) struct ListedFile {
    /// The path below the folder or in the archive, with `/` as separator.
    pub(super) name: String,
    pub(super) kind: FileKind,
    /// The content of a table, or why it cannot be read.
    pub(super) table: Option<Result<Vec<u8>, String>>,
}

/// A table that cannot be used: its name, and the problem.
pub(super) type TableProblem = (String, String);

/// The labels of files by their names; `None` for a file that a table lists without a label.
type TableLabels = HashMap<String, Option<String>>;

/// The pictures of one split and their classes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// The place of each picture in the list of files, and the index of its class.
    pub(super) pictures: Vec<(usize, Option<u32>)>,
    pub(super) classes: Vec<String>,
    /// Files that a table lists but that do not exist.
    pub(super) missing: Vec<String>,
    /// The folder that all pictures of all splits share, including its last `/`.
    pub(super) shared: String,
    /// The folder of the split below `shared`.
    pub(super) part: Option<String>,
    /// What a user has to know: files that are not used, and pictures without a class.
    pub(super) notes: Vec<String>,
}

impl Listing {
    /// Lists the pictures of `split`.
    ///
    /// Classes come from tables of labels, or else from the folders below the folder that all
    /// pictures of the split share. Rows of a table are relative to its folder; a table nearer to a
    /// picture overrides one further up.
    ///
    /// # Errors
    /// If a table in a folder above a picture is invalid.
    pub(super) fn new(files: &[ListedFile], split: Split) -> Result<Self, TableProblem> {
        let is_picture = |file: &&ListedFile| file.kind == FileKind::Picture;
        let all: Vec<&str> = files.iter().filter(is_picture).map(|f| f.name.as_str()).collect();
        let shared = shared_folder(&all).to_owned();
        let splits = Splits::find(&all, &shared);
        let part = splits.as_ref().map(|splits| splits.folder(split).to_owned());
        let places: Vec<usize> = (0..files.len())
            .filter(|&i| {
                is_picture(&&files[i]) && is_below(&files[i].name, &shared, part.as_deref())
            })
            .collect();
        let names: Vec<&str> = places.iter().map(|&i| files[i].name.as_str()).collect();

        let mut notes = Vec::new();
        let (labels, missing) = table_labels(files, &names, &shared, &mut notes)?;
        let labels = if labels.values().any(Option::is_some) {
            names.iter().map(|name| labels.get(*name).cloned().flatten()).collect()
        } else {
            folder_labels(&names)
        };
        let labels = without_missing(labels);
        let (classes, index) = classes_of(labels.iter().flatten().map(String::as_str));
        let indices = labels.iter().map(|label| label.as_ref().map(|label| index[label]));
        let pictures: Vec<(usize, Option<u32>)> = places.into_iter().zip(indices).collect();

        let unlabelled = pictures.iter().filter(|(_, label)| label.is_none()).count();
        if !classes.is_empty() && unlabelled > 0 {
            notes.push(format!("{unlabelled} of {} pictures have no class", pictures.len()));
        }
        if let (Some(splits), Some(part)) = (&splits, &part) {
            let is_outside = |name: &&&str| {
                splits.all.iter().all(|folder| !is_below(name, &shared, Some(folder)))
            };
            let outside = all.iter().filter(is_outside).count();
            if outside > 0 {
                notes.push(format!(
                    "{outside} pictures outside of the folders of splits are not used; the split is \
                     {part}"
                ));
            }
        }
        notes.extend(unused(files));
        let folders = folders_of(&all);
        let is_elsewhere = |file: &&ListedFile| {
            file.kind == FileKind::Table && !folders.contains(folder_of(&file.name))
        };
        notes.extend(files.iter().filter(is_elsewhere).map(|file| {
            format!("{}: not used, because no picture is below the table's folder", file.name)
        }));
        Ok(Self { pictures, classes, missing, shared, part, notes })
    }
}

/// Whether the folders of pictures give them these classes.
pub(crate) fn folders_give(labelled: &[(String, Option<String>)]) -> bool {
    let file = |(name, _): &(String, _)| ListedFile {
        name: name.clone(),
        kind: FileKind::Picture,
        table: None,
    };
    let files: Vec<ListedFile> = labelled.iter().map(file).collect();
    let Ok(listing) = Listing::new(&files, Split::Train) else { return false };
    let class = |label: Option<u32>| label.map(|label| &listing.classes[label as usize]);
    listing.pictures.len() == labelled.len()
        && listing
            .pictures
            .iter()
            .all(|(place, label)| class(*label) == labelled[*place].1.as_ref())
}

/// The words that tables have in place of a missing number, in lower case.
const NO_NUMBER: [&str; 6] = ["nan", "none", "null", "na", "n/a", "<na>"];

/// The labels, without the words for a missing number if all others are numbers. They may be the
/// names of classes otherwise.
fn without_missing(labels: Vec<Option<String>>) -> Vec<Option<String>> {
    let is_missing = |label: &String| NO_NUMBER.contains(&label.trim().to_lowercase().as_str());
    let mut others = labels.iter().flatten().filter(|label| !is_missing(label)).peekable();
    let are_numbers = others.peek().is_some()
        && others.all(|label| label.trim().parse::<f64>().is_ok_and(f64::is_finite));
    if !are_numbers {
        return labels;
    }
    labels.into_iter().map(|label| label.filter(|label| !is_missing(label))).collect()
}

/// Whether a file is in the folder `part` of the folder `shared`.
fn is_below(name: &str, shared: &str, part: Option<&str>) -> bool {
    let Some(below) = name.strip_prefix(shared) else { return false };
    part.is_none_or(|part| below.strip_prefix(part).is_some_and(|rest| rest.starts_with('/')))
}

/// The labels that tables give to files, and the names in them that do not exist.
fn table_labels(
    files: &[ListedFile],
    names: &[&str],
    shared: &str,
    notes: &mut Vec<String>,
) -> Result<(TableLabels, Vec<String>), TableProblem> {
    let folders = folders_of(names);
    // A table nearer to the pictures comes later and overrides the others.
    let priority = |name: &str| {
        let file = &name[folder_of(name).len()..];
        (name.matches('/').count(), table::NAMES.iter().position(|known| *known == file))
    };
    let mut tables: Vec<(&str, &Result<Vec<u8>, String>)> = files
        .iter()
        .filter_map(|file| Some((file.name.as_str(), file.table.as_ref()?)))
        .filter(|(name, _)| folders.contains(folder_of(name)))
        .collect();
    tables.sort_by_key(|(name, _)| priority(name));

    let base = shared_folder(names);
    let existing: HashSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    // A row of a split that is not in this copy of the set is not missing.
    let existing_folders: HashSet<&str> = existing.iter().map(|name| folder_of(name)).collect();
    let root = &shared[..folder_of(shared.trim_end_matches('/')).len()];
    let other_split = |name: &str| {
        [shared, root].into_iter().any(|base| {
            let folder = name.strip_prefix(base).and_then(|rest| rest.split_once('/'));
            folder.is_some_and(|(folder, _)| {
                let path = format!("{base}{folder}/");
                kind_of_split(folder).is_some()
                    && !existing_folders.iter().any(|known| known.starts_with(&path))
            })
        })
    };
    let mut labels = TableLabels::new();
    let mut missing = BTreeSet::new();
    let mut read: Vec<&str> = Vec::new();
    for (name, content) in tables {
        let invalid = |problem: String| (name.to_owned(), problem);
        let read_table = || {
            let content = content.as_ref().map_err(Clone::clone)?;
            table::read(name, content)
        };
        let table = match read_table() {
            // A table beside some of the pictures only may be anything.
            Err(problem) if folder_of(name).len() > base.len() => {
                Table { rows: Vec::new(), problem: Some(problem) }
            }
            table => table.map_err(invalid)?,
        };
        notes.extend(table.problem.map(|problem| format!("{name}: {problem}")));
        let folder = folder_of(name);
        let mut own = TableLabels::new();
        let mut contradictions = 0;
        let rows = table.rows.len();
        for (file, label) in table.rows {
            let file = format!("{folder}{file}");
            if !existing.contains(file.as_str()) {
                if label.is_some() && !other_split(&file) {
                    missing.insert(file);
                }
                continue;
            }
            let earlier = own.insert(file, label.clone());
            contradictions += usize::from(earlier.is_some_and(|earlier| earlier != label));
        }
        if rows > 0 && own.is_empty() {
            notes.push(format!(
                "{name}: none of its {rows} rows names a file below the table's folder"
            ));
        }
        if contradictions > 0 {
            notes.push(format!(
                "{name}: {contradictions} rows repeat a file with another label; the last row counts"
            ));
        }
        let is_other = |(file, label): &(&String, &Option<String>)| {
            let earlier = labels.get(*file).and_then(Option::as_ref);
            earlier.is_some_and(|earlier| label.as_ref().is_some_and(|label| label != earlier))
        };
        let others = own.iter().filter(is_other).count();
        if others > 0 {
            notes.push(format!(
                "{name}: {others} files have another label in {}; {name} counts",
                read.join(", ")
            ));
        }
        read.push(name);
        labels.extend(own);
    }
    Ok((labels, missing.into_iter().collect()))
}

/// The first folder of each name below the folders that all names share. With fewer than two such
/// folders there are no labels.
fn folder_labels(names: &[&str]) -> Vec<Option<String>> {
    let shared = shared_folder(names).len();
    let folders: Vec<Option<String>> = names
        .iter()
        .map(|name| name[shared..].split_once('/').map(|(first, _)| first.to_owned()))
        .collect();
    let different: BTreeSet<_> = folders.iter().flatten().collect();
    if different.len() < 2 { vec![None; names.len()] } else { folders }
}

/// The folder of a file, including its last `/`.
fn folder_of(name: &str) -> &str {
    &name[..name.rfind('/').map_or(0, |end| end + 1)]
}

/// All folders above the files.
fn folders_of<'a>(names: &[&'a str]) -> HashSet<&'a str> {
    let mut folders = HashSet::new();
    for name in names {
        let mut folder = folder_of(name);
        while folders.insert(folder) && !folder.is_empty() {
            folder = folder_of(&folder[..folder.len() - 1]);
        }
    }
    folders
}

/// The longest sequence of folders that all names begin with, including its last `/`.
fn shared_folder<'a>(names: &[&'a str]) -> &'a str {
    let Some(first) = names.first() else { return "" };
    names.iter().fold(folder_of(first), |shared, name| {
        let equal = shared.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        let end = shared.as_bytes()[..equal].iter().rposition(|byte| *byte == b'/');
        end.map_or("", |end| &shared[..=end])
    })
}

/// The folders of splits below the shared folder.
#[derive(Debug)]
struct Splits {
    train: String,
    test: String,
    /// All folders of splits, with the other ones.
    all: Vec<String>,
}

impl Splits {
    /// The splits, if there are folders for training and for test pictures.
    fn find(names: &[&str], shared: &str) -> Option<Self> {
        let folders: BTreeSet<&str> = names
            .iter()
            .filter_map(|name| name.strip_prefix(shared)?.split_once('/'))
            .map(|(folder, _)| folder)
            .collect();
        let rank = |folder: &&&str| kind_of_split(folder);
        let mut of_splits: Vec<&&str> = folders.iter().filter(|f| rank(f).is_some()).collect();
        of_splits.sort_by_key(rank);
        let train = of_splits.iter().find(|f| kind_of_split(f).is_some_and(|k| k.0 == 0))?;
        let test = of_splits.iter().find(|f| kind_of_split(f).is_some_and(|k| k.0 == 1))?;
        Some(Self {
            train: (**train).to_string(),
            test: (**test).to_string(),
            all: of_splits.iter().map(|folder| (**folder).to_owned()).collect(),
        })
    }

    fn folder(&self, split: Split) -> &str {
        if split == Split::Train { &self.train } else { &self.test }
    }
}

/// 0 for the name of a folder of training pictures, 1 for test pictures, and the priority among the
/// names of that kind. A prefix such as `seg_` comes last.
pub(crate) fn kind_of_split(folder: &str) -> Option<(usize, usize, bool)> {
    let name = folder.to_lowercase();
    let last = name.rsplit(['_', '-', ' ']).next().unwrap_or(&name);
    let has_prefix = last.len() < name.len();
    [&TRAIN_NAMES[..], &TEST_NAMES].iter().enumerate().find_map(|(kind, names)| {
        let rank = names.iter().position(|known| *known == last)?;
        Some((kind, rank, has_prefix))
    })
}

/// Notes about the files that are not read.
pub(super) fn unused(files: &[ListedFile]) -> Vec<String> {
    let of_kind = |kind| files.iter().filter(move |file| file.kind == kind);
    let mut notes = Vec::new();
    let sheets: Vec<&str> = of_kind(FileKind::Sheet).map(|file| file.name.as_str()).collect();
    if let Some(first) = sheets.first() {
        let others = match sheets.len() - 1 {
            0 => " shows".to_owned(),
            n => format!(" and {n} others show"),
        };
        notes.push(format!("{first}{others} several images, so it is not used as one picture"));
    }
    let pointers: Vec<&str> = of_kind(FileKind::Pointer).map(|file| file.name.as_str()).collect();
    if let Some(first) = pointers.first() {
        let others = match pointers.len() - 1 {
            0 => " is a Git LFS pointer".to_owned(),
            n => format!(" and {n} others are Git LFS pointers"),
        };
        notes.push(format!("{first}{others}, not the file itself; `git lfs pull` downloads it"));
    }
    let mut endings: BTreeMap<Option<String>, Vec<&str>> = BTreeMap::new();
    for file in of_kind(FileKind::Other) {
        endings.entry(kind::ending(&file.name)).or_default().push(&file.name);
    }
    let mut kinds: Vec<(usize, String)> = endings
        .into_iter()
        .map(|(ending, names)| {
            let text = match (names.as_slice(), ending) {
                ([name], _) => (*name).to_owned(),
                (names, Some(ending)) => format!("{} files ending in .{ending}", names.len()),
                (names, None) => format!("{} files without an ending", names.len()),
            };
            (names.len(), text)
        })
        .collect();
    kinds.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    if !kinds.is_empty() {
        let all: usize = kinds.iter().skip(MAX_NAMED).map(|(count, _)| count).sum();
        let mut texts: Vec<String> =
            kinds.into_iter().take(MAX_NAMED).map(|(_, text)| text).collect();
        if all > 0 {
            texts.push(format!("{all} others"));
        }
        notes.push(format!("not used: {}", texts.join(", ")));
    }
    notes
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

/// The length of a file in bytes, its modification time in nanoseconds since 1970, and on Unix the
/// time of the last change of the file or its attributes. `cp -p` keeps the modification time.
pub(super) type Stamp = (u64, u128, i128);

pub(super) fn stamp(metadata: io::Result<fs::Metadata>) -> Stamp {
    let time = |metadata: &fs::Metadata| {
        metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok().map(|since| since.as_nanos())
    };
    metadata.map_or((0, 0, 0), |metadata| {
        (metadata.len(), time(&metadata).unwrap_or(0), changed(&metadata))
    })
}

#[cfg(unix)]
fn changed(metadata: &fs::Metadata) -> i128 {
    use std::os::unix::fs::MetadataExt;

    i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn changed(_: &fs::Metadata) -> i128 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file called `name`; the text after a `|` is the content of a table.
    fn file(name: &str) -> ListedFile {
        let (name, content) = name.split_once('|').unwrap_or((name, ""));
        let kind = kind::kind_of(name, Vec::new);
        let table = (kind == FileKind::Table).then(|| Ok(content.as_bytes().to_vec()));
        ListedFile { name: name.to_owned(), kind, table }
    }

    fn listing(names: &[&str]) -> Result<Listing, TableProblem> {
        Listing::new(&names.iter().map(|name| file(name)).collect::<Vec<_>>(), Split::Train)
    }

    /// `name: class` of each picture.
    fn labelled(names: &[&str]) -> Vec<String> {
        let listing = listing(names).unwrap();
        let class = |label: Option<u32>| {
            label.map_or("none", |label| listing.classes[label as usize].as_str())
        };
        let text =
            |(place, label): &(usize, Option<u32>)| format!("{}: {}", names[*place], class(*label));
        listing.pictures.iter().map(text).collect()
    }

    #[test]
    fn the_first_folder_is_the_class_and_numbers_keep_their_order() {
        let names = ["10/a.png", "9/b.png", "9/deep/c.png", "d.png"];
        let numbers = listing(&names).unwrap();
        assert_eq!(numbers.classes, ["9", "10"]);
        assert_eq!(
            labelled(&names),
            ["10/a.png: 10", "9/b.png: 9", "9/deep/c.png: 9", "d.png: none"]
        );
        assert_eq!(numbers.notes, ["1 of 4 pictures have no class"]);
        assert_eq!(listing(&["only/a.png", "only/b.png"]).unwrap().classes, [""; 0]);
    }

    #[test]
    fn the_folder_that_all_names_share_is_no_class() {
        assert_eq!(shared_folder(&["set/cat/a.png", "set/cow/b.png"]), "set/");
        assert_eq!(shared_folder(&["set/a.png", "set/b.png"]), "set/");
        assert_eq!(shared_folder(&["é/a.png", "è/b.png"]), "");
        assert_eq!(shared_folder(&["a.png", "x/b.png"]), "");
        assert_eq!(listing(&["set/cat/a.png", "set/cow/b.png"]).unwrap().classes, ["cat", "cow"]);
    }

    #[test]
    fn a_table_gives_labels_wherever_it_is_above_the_pictures() {
        let rows = "file_name,label\na.png,x\nb.png,y\n";
        for folder in ["", "set/", "set/images/"] {
            let names = [
                format!("{folder}a.png"),
                format!("{folder}b.png"),
                format!("{folder}metadata.csv|{rows}"),
            ];
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(listing(&names).unwrap().classes, ["x", "y"], "{folder}");
        }
        let root = "metadata.csv|file_name,label\nimages/a.png,x\nimages/b.png,y\n";
        assert_eq!(
            labelled(&["images/a.png", "images/b.png", root]),
            ["images/a.png: x", "images/b.png: y"]
        );
        // The nearer table overrides the one at the top.
        let near = "u/metadata.csv|file_name,label\na.png,near\n";
        let far = "labels.csv|file_name,label\nu/a.png,far\nv/b.png,far\n";
        assert_eq!(labelled(&["u/a.png", "v/b.png", near, far]), ["u/a.png: near", "v/b.png: far"]);
        // A table elsewhere is not used, and cannot be an error.
        let elsewhere = listing(&["u/a.png", "v/b.png", "docs/labels.csv|x\n"]).unwrap();
        assert_eq!(elsewhere.classes, ["u", "v"]);
        assert_eq!(
            elsewhere.notes,
            ["docs/labels.csv: not used, because no picture is below the table's folder"]
        );
        let (table, problem) = listing(&["u/a.png", "labels.csv|x\n"]).unwrap_err();
        assert_eq!(table, "labels.csv");
        assert!(problem.contains("file_name and label; it names x"), "{problem}");
    }

    #[test]
    fn rows_of_other_splits_are_not_missing() {
        let table = "metadata.csv|file_name,label\ntrain/a.png,x\ntrain/c.png,x\ntest/b.png,y\n";
        let both = listing(&["train/a.png", "test/b.png", table]).unwrap();
        assert_eq!(
            (both.part.as_deref(), both.missing),
            (Some("train"), vec!["train/c.png".to_owned()])
        );
        assert_eq!(both.classes, ["x"]);
        let only = listing(&["train/a.png", table]).unwrap();
        assert_eq!((only.part, only.missing), (None, vec!["train/c.png".to_owned()]));
    }

    #[test]
    fn splits_have_many_names() {
        for (train, test) in [
            ("train", "test"),
            ("Training", "Testing"),
            ("TRAIN", "VAL"),
            ("train", "dev"),
            ("seg_train", "seg_test"),
        ] {
            let names =
                [format!("{train}/a/1.png"), format!("{train}/b/2.png"), format!("{test}/a/3.png")];
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let found = listing(&names).unwrap();
            assert_eq!((found.part.as_deref(), found.pictures.len()), (Some(train), 2), "{test}");
            assert_eq!(found.classes, ["a", "b"]);
        }
        for names in [["trainer/1.png", "tester/2.png"], ["train/1.png", "latest/2.png"]] {
            assert_eq!(listing(&names).unwrap().part, None);
        }
    }

    #[test]
    fn what_is_not_used_is_named() {
        let notes = |names: &[&str]| listing(names).unwrap().notes;
        assert_eq!(notes(&["a.png", ".hidden", "README.md"]), [""; 0]);
        assert_eq!(
            notes(&[
                "a.png",
                "b.avif",
                "c.avif",
                "metadata.csv|file_name,text\na.png,hello\n",
                "x"
            ]),
            [
                "metadata.csv: it has no column of labels, such as label; its columns are \
                 file_name, text",
                "not used: 2 files ending in .avif, x"
            ]
        );
        assert_eq!(
            notes(&["train/a.png", "val/b.png", "c.png"]),
            ["1 pictures outside of the folders of splits are not used; the split is train"]
        );
        assert_eq!(
            notes(&["a.png", "labels.csv|file,label\na.png,x\na.png,y\n"]),
            ["labels.csv: 1 rows repeat a file with another label; the last row counts"]
        );
        assert_eq!(
            notes(&[
                "a.png",
                "metadata.csv|file,label\na.png,x\n",
                "labels.csv|file,label\na.png,y\n"
            ]),
            ["metadata.csv: 1 files have another label in labels.csv; metadata.csv counts"]
        );
        assert_eq!(
            notes(&["a.png", "contact-sheet.png"]),
            ["contact-sheet.png shows several images, so it is not used as one picture"]
        );
    }
}
