//! MNIST and sets in its format: four IDX files in a folder.

use std::path::{Path, PathBuf};

use crate::config::Split;
use crate::dataset::classes::numbered_classes;
use crate::dataset::{Metadata, Pixels};
use crate::error::first_names;
use crate::source::idx::{self, IdxArray};
use crate::{DataError, ImageDataset};

/// An optional file in the same folder, with one class name per line.
const CLASS_NAMES: &str = "classes.txt";
const EXPECTED: &str = "train-images-idx3-ubyte (or the same with .gz)";

/// Loads the training pictures and labels from the IDX folder `dir`, each file plain or gzipped.
/// `dir` may also be the file of pictures itself.
///
/// # Errors
/// If `dir` does not exist or is a folder without `train-images-idx3-ubyte`. If a file cannot be
/// read or is not IDX, or the number of labels differs from the number of pictures.
pub fn load_train(dir: &Path) -> Result<ImageDataset, DataError> {
    load(dir, Split::Train)
}

/// Loads the test pictures and labels (`t10k-…`) from the IDX folder `dir`, each file plain or
/// gzipped. `dir` may also be the file of pictures itself.
///
/// # Errors
/// If `dir` does not exist or is a folder without `t10k-images-idx3-ubyte`. If a file cannot be
/// read or is not IDX, or the number of labels differs from the number of pictures.
pub fn load_test(dir: &Path) -> Result<ImageDataset, DataError> {
    load(dir, Split::Test)
}

/// The files of one split in the folder `dir`: its pictures and, if they exist, its labels.
pub(crate) fn files(dir: &Path, split: Split) -> Option<Vec<PathBuf>> {
    let prefix = match split {
        Split::Train => "train",
        Split::Test => "t10k",
    };
    let images = find(dir, &format!("{prefix}-images-idx3-ubyte"))?;
    let labels = find(dir, &format!("{prefix}-labels-idx1-ubyte"));
    Some(std::iter::once(images).chain(labels).collect())
}

pub(crate) fn load(path: &Path, split: Split) -> Result<ImageDataset, DataError> {
    let metadata = std::fs::metadata(path).map_err(DataError::io(path))?;
    let files = if metadata.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let labels = path.with_file_name(name.replace("images-idx3", "labels-idx1"));
        let labels = (labels != path && labels.is_file()).then_some(labels);
        std::iter::once(path.to_owned()).chain(labels).collect()
    } else {
        files(path, split).ok_or_else(|| DataError::NothingFound {
            path: path.to_owned(),
            expected: EXPECTED,
            found: names_in_folder(path),
        })?
    };
    let images = idx::read_file(&files[0], 3)?;
    let labels = files.get(1).map(|file| idx::read_file(file, 1)).transpose()?;
    let names = std::fs::read_to_string(files[0].with_file_name(CLASS_NAMES)).unwrap_or_default();
    assemble(&files[0], images, labels, &names)
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

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    [name.to_owned(), format!("{name}.gz")]
        .into_iter()
        .map(|name| dir.join(name))
        .find(|path| path.is_file())
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
