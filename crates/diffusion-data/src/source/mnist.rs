//! MNIST and sets in its format: IDX files of pictures and of labels in a folder. They are
//! recognised by their first bytes, because there are many spellings of their names.

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::config::Split;
use crate::dataset::classes::numbered_classes;
use crate::dataset::{Metadata, Pixels};
use crate::error::first_names;
use crate::source::idx::{self, IdxArray};
use crate::{DataError, ImageDataset};

/// An optional file in the same folder, with one class name per line.
const CLASS_NAMES: &str = "classes.txt";
const EXPECTED: &str = "train-images-idx3-ubyte (or the same with .gz)";
/// MNIST's own names, which are chosen if there are others.
const STANDARD_KEYS: [&str; 2] = ["trainimagesidx3ubyte", "t10kimagesidx3ubyte"];
/// The maximum depth of folders in which IDX files are searched for.
const MAX_DEPTH: usize = 3;

/// Loads the training pictures and labels from the IDX folder `dir`, each file plain or gzipped.
/// `dir` may also be the file of pictures itself.
///
/// # Errors
/// If `dir` does not exist or is a folder without a file of training pictures, or with several. If
/// a file cannot be read or is not IDX. If the number of labels differs from the number of
/// pictures.
pub fn load_train(dir: &Path) -> Result<ImageDataset, DataError> {
    load_split(dir, Split::Train)
}

/// Loads the test pictures and labels (`t10k-…`) from the IDX folder `dir`, each file plain or
/// gzipped. `dir` may also be the file of pictures itself.
///
/// # Errors
/// If `dir` does not exist or is a folder without a file of test pictures, or with several. If a
/// file cannot be read or is not IDX, or the number of labels differs from the number of pictures.
pub fn load_test(dir: &Path) -> Result<ImageDataset, DataError> {
    load_split(dir, Split::Test)
}

/// The IDX files of one split.
#[derive(Debug)]
pub(crate) struct IdxFiles {
    images: PathBuf,
    labels: Option<PathBuf>,
    /// Whether the labels were found by their number and not by their name.
    is_guess: bool,
    /// Other sets of pictures of the same split.
    unused: Vec<PathBuf>,
}

impl IdxFiles {
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        std::iter::once(&self.images).chain(&self.labels).cloned().collect()
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        let images = self.images.file_name().unwrap_or_default().to_string_lossy();
        let missing = || {
            format!(
                "no labels were found beside {images}; expected an IDX file of one dimension, such \
                 as train-labels-idx1-ubyte"
            )
        };
        let unused: Vec<String> =
            self.unused.iter().map(|file| file.display().to_string()).collect();
        let unused = (!unused.is_empty()).then(|| format!("not used: {}", first_names(&unused)));
        let guess = self.labels.as_ref().filter(|_| self.is_guess).map(|labels| {
            let labels = labels.file_name().unwrap_or_default().to_string_lossy();
            format!("the labels of {images} are taken from {labels}, which has as many")
        });
        self.labels.is_none().then(missing).into_iter().chain(guess).chain(unused).collect()
    }
}

/// The files of one split in the folder `dir` or its subfolders, by their first bytes; `None` if
/// there are no pictures of that split.
///
/// # Errors
/// If there are several sets of pictures.
pub(crate) fn files(dir: &Path, split: Split) -> Result<Option<IdxFiles>, DataError> {
    let candidates = Candidate::find(dir, MAX_DEPTH);
    let mut sets: Vec<&Candidate> = candidates
        .iter()
        .filter(|file| file.rank == 3 && file.split.unwrap_or(Split::Train) == split)
        .collect();
    // The same file may be there plain and gzipped, and in a folder of its own name.
    sets.sort_by_key(|file| file.preference());
    let mut different: Vec<&Candidate> = Vec::new();
    for set in sets {
        if different.iter().all(|other| !other.is_copy_of(set)) {
            different.push(set);
        }
    }
    let is_standard = |file: &&&Candidate| STANDARD_KEYS.contains(&file.key.as_str());
    let mut standard = different.iter().filter(is_standard);
    // `different` begins with the files that are least deep.
    let standard = match (standard.next(), standard.next()) {
        (Some(first), Some(second)) if first.depth == second.depth => None,
        (first, _) => first,
    };
    let images: &Candidate = match (standard, different.as_slice()) {
        (_, []) => return Ok(None),
        (Some(file), _) | (None, [file]) => file,
        (None, files) => {
            let names: Vec<String> =
                files.iter().map(|file| file.path.display().to_string()).collect();
            let problem = format!(
                "it contains several sets of IDX pictures; name the file of one: {}",
                first_names(&names)
            );
            return Err(DataError::unusable(dir, problem));
        }
    };
    let (labels, is_guess) = images.labels_among(&candidates).unzip();
    let is_guess = is_guess.unwrap_or(false);
    let unused = different.iter().filter(|file| file.path != images.path);
    let unused = unused.map(|file| file.path.clone()).collect();
    Ok(Some(IdxFiles { images: images.path.clone(), labels, is_guess, unused }))
}

/// The file of pictures at `path`, with the labels beside it.
pub(crate) fn files_of(path: &Path) -> IdxFiles {
    let Some(images) = Candidate::open(path, 0) else {
        // Reading it gives an error that says what is wrong.
        let (labels, is_guess, unused) = (None, false, Vec::new());
        return IdxFiles { images: path.to_owned(), labels, is_guess, unused };
    };
    let folder = images.home().filter(|folder| !folder.as_os_str().is_empty());
    // Of a large folder, only files and folders whose name says that they are labels are opened.
    let is_label = |entry: &walkdir::DirEntry| {
        entry.depth() == 0 || entry.file_name().to_string_lossy().to_lowercase().contains("label")
    };
    let labels = Candidate::walk(folder.unwrap_or(Path::new(".")), 2, is_label);
    let (labels, is_guess) = images.labels_among(&labels).unzip();
    let (is_guess, unused) = (is_guess.unwrap_or(false), Vec::new());
    IdxFiles { images: path.to_owned(), labels, is_guess, unused }
}

pub(crate) fn load(files: &IdxFiles) -> Result<ImageDataset, DataError> {
    let images = idx::read_file(&files.images, 3)?;
    let labels = files.labels.as_ref().map(|file| idx::read_file(file, 1)).transpose()?;
    let names =
        std::fs::read_to_string(files.images.with_file_name(CLASS_NAMES)).unwrap_or_default();
    assemble(&files.images, images, labels, &names)
}

fn load_split(path: &Path, split: Split) -> Result<ImageDataset, DataError> {
    let metadata = std::fs::metadata(path).map_err(DataError::io(path))?;
    if metadata.is_file() {
        return load(&files_of(path));
    }
    let found = files(path, split)?.ok_or_else(|| DataError::NothingFound {
        path: path.to_owned(),
        expected: EXPECTED,
        found: names_in_folder(path),
    })?;
    load(&found)
}

/// A file that begins like an IDX file of bytes.
#[derive(Debug)]
struct Candidate {
    path: PathBuf,
    depth: usize,
    /// 3 for pictures, 1 for labels.
    rank: u8,
    /// The number of pictures or labels.
    count: u32,
    /// The name in lower case without `.gz` and everything but letters and digits. The spellings
    /// `train-images-idx3-ubyte` and `train-images.idx3-ubyte.gz` have one key.
    key: String,
    /// The split that the name says.
    split: Option<Split>,
}

impl Candidate {
    /// All IDX files in `dir` and its subfolders, down to `depth`.
    fn find(dir: &Path, depth: usize) -> Vec<Self> {
        Self::walk(dir, depth, |_| true)
    }

    fn walk(dir: &Path, depth: usize, wanted: impl Fn(&walkdir::DirEntry) -> bool) -> Vec<Self> {
        let walk = WalkDir::new(dir).follow_links(true).max_depth(depth).sort_by_file_name();
        let entries = walk.into_iter().filter_entry(wanted).filter_map(Result::ok);
        let files = entries.filter(|entry| entry.file_type().is_file());
        files.filter_map(|entry| Self::open(entry.path(), entry.depth())).collect()
    }

    fn open(path: &Path, depth: usize) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let key = key_of(name);
        let (rank, count) = match idx::head(path) {
            Some([0, 0, 8, rank @ (1 | 3), a, b, c, d]) => (rank, u32::from_be_bytes([a, b, c, d])),
            // Reading it gives an error that says what is wrong.
            _ if STANDARD_KEYS.contains(&key.as_str()) => (3, 0),
            _ => return None,
        };
        let split = split_in(name).or_else(|| {
            // Kaggle packs each file into a folder of its own name.
            split_in(&path.parent()?.file_name()?.to_string_lossy().to_lowercase())
                .filter(|_| depth > 1)
        });
        Some(Self { path: path.to_owned(), depth, rank, count, key, split })
    }

    /// The folder of the file, or the one above if the file is in a folder of its own name.
    fn home(&self) -> Option<&Path> {
        let parent = self.path.parent()?;
        let name = parent.file_name().unwrap_or_default().to_string_lossy();
        if key_of(name.trim_end_matches(".gz")) == self.key {
            parent.parent()
        } else {
            Some(parent)
        }
    }

    /// Whether the two are one file in different forms: plain and gzipped, in a folder and in a
    /// folder of its own name.
    fn is_copy_of(&self, other: &Self) -> bool {
        self.key == other.key && self.home() == other.home()
    }

    /// Files in the folder itself come first, and plain ones before gzipped ones.
    fn preference(&self) -> (usize, bool, &Path) {
        (self.depth, self.path.extension().is_some_and(|ending| ending == "gz"), &self.path)
    }

    /// The labels of these pictures, and whether they are a guess: the file with the same name but
    /// for the words `images` and `idx3`; otherwise the only one of the same split with as many
    /// labels, if its name does not belong to another set.
    fn labels_among(&self, candidates: &[Self]) -> Option<(PathBuf, bool)> {
        let key = self.key.replace("image", "label").replace("idx3", "idx1");
        let labels = || candidates.iter().filter(|file| file.rank == 1);
        let namesakes = labels().filter(|file| file.key == key && file.key != self.key);
        let nearest = namesakes
            .min_by_key(|file| (file.path.parent() != self.path.parent(), file.preference()));
        if let Some(file) = nearest {
            return Some((file.path.clone(), false));
        }
        let own = set_words(&self.path);
        let fits = |file: &&Self| {
            let words = set_words(&file.path);
            own.is_empty() || words.is_empty() || own == words
        };
        let mut similar = labels()
            .filter(|file| file.count == self.count && file.split == self.split)
            .filter(fits)
            .collect::<Vec<_>>();
        similar.sort_by_key(|file| file.preference());
        let first = similar.first()?;
        similar.iter().all(|file| file.key == first.key).then(|| (first.path.clone(), true))
    }
}

/// The words in the name of a file that tell one set from another, such as `fashion`.
fn set_words(path: &Path) -> Vec<String> {
    const COMMON: [&str; 16] = [
        "train", "training", "test", "testing", "t10k", "val", "images", "image", "labels",
        "label", "idx", "idx1", "idx3", "ubyte", "gz", "pictures",
    ];
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.filter(|word| !COMMON.contains(word)).map(str::to_owned).collect()
}

/// The letters and digits of a name in lower case.
fn key_of(name: &str) -> String {
    name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
}

/// Whether a name says that the file has the format IDX, whatever it contains.
pub(super) fn has_idx_name(name: &str) -> bool {
    let key = key_of(name);
    key.contains("idx3ubyte") || key.contains("idx1ubyte")
}

/// The split that a name says, such as `t10k-images-idx3-ubyte`.
fn split_in(name: &str) -> Option<Split> {
    let mut words = name.split(|c: char| !c.is_alphanumeric());
    words.find_map(|word| {
        let starts = |starts: &[&str]| starts.iter().any(|start| word.starts_with(start));
        match word {
            _ if starts(&["train"]) => Some(Split::Train),
            _ if starts(&["t10k", "test", "val"]) => Some(Split::Test),
            _ => None,
        }
    })
}

/// Creates a data set from the bytes of an image file and a label file, plain or gzipped.
///
/// # Errors
/// If the bytes are not IDX, or the number of labels differs from the number of pictures.
pub fn from_bytes(images: &[u8], labels: &[u8]) -> Result<ImageDataset, DataError> {
    let name = "embedded digits";
    assemble(
        Path::new(name),
        idx::read_bytes(images, 3, name)?,
        Some(idx::read_bytes(labels, 1, name)?),
        "",
    )
}

fn assemble(
    path: &Path,
    images: IdxArray,
    labels: Option<IdxArray>,
    class_names: &str,
) -> Result<ImageDataset, DataError> {
    let image_shape = [1, images.dims[1], images.dims[2]];
    let labels: Vec<_> = labels
        .into_iter()
        .flat_map(|labels| labels.data)
        .map(|label| Some(u32::from(label)))
        .collect();
    let last = labels.iter().flatten().max();
    let mut classes: Vec<String> = class_names
        .lines()
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if last.is_none_or(|last| classes.len() <= *last as usize) {
        classes = numbered_classes(last);
    }
    let metadata = Metadata { labels, classes, names: Vec::new() };
    ImageDataset::assemble(Pixels::Memory(images.data), metadata, image_shape)
        .map_err(|e| DataError::unusable(path, e))
}

/// The first few names in a folder, for an error message.
fn names_in_folder(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    first_names(&names)
}

/// The first `per_class` pictures of each class, in the order of the data set, and their labels.
/// The digits that ship with the project were chosen by this rule.
///
/// # Errors
/// If a picture has no label below 256, or a class has fewer pictures than `per_class`.
pub fn class_balanced_subset(
    dataset: &ImageDataset,
    per_class: usize,
) -> Result<(IdxArray, IdxArray), DataError> {
    let labels: Option<Vec<u8>> = (0..dataset.len())
        .map(|i| dataset.label(i).and_then(|label| u8::try_from(label).ok()))
        .collect();
    let labels = labels.ok_or_else(|| {
        DataError::Invalid("a class-balanced subset needs labels below 256".to_owned())
    })?;
    let mut counts = [0; 256];
    let mut chosen = Vec::new();
    for (i, &label) in labels.iter().enumerate() {
        if counts[usize::from(label)] < per_class {
            counts[usize::from(label)] += 1;
            chosen.push(i);
        }
    }
    if let Some((class, n)) = counts.iter().enumerate().find(|(_, n)| **n > 0 && **n < per_class) {
        return Err(DataError::Invalid(format!(
            "class {class} has only {n} pictures; expected at least {per_class}"
        )));
    }
    let [_, height, width] = dataset.image_shape();
    let images = IdxArray {
        dims: vec![chosen.len(), height, width],
        data: chosen.iter().flat_map(|&i| dataset.image(i)).copied().collect(),
    };
    let labels =
        IdxArray { dims: vec![chosen.len()], data: chosen.iter().map(|&i| labels[i]).collect() };
    Ok((images, labels))
}
