//! MNIST and the sets that share its form: four IDX files in a folder.

use std::path::{Path, PathBuf};

use crate::idx::{self, IdxArray};
use crate::{DataError, ImageDataset};

/// The training pictures and labels of the IDX folder at `dir`, each file plain or gzipped. `dir` may also be the
/// file of the pictures itself.
///
/// # Errors
/// A path that does not exist; a folder without `train-images-idx3-ubyte`; files that are not IDX or do not belong
/// together.
pub fn load_train(dir: &Path) -> Result<ImageDataset, DataError> {
    load(dir, "train")
}

/// The test pictures and labels (`t10k-…`) of the IDX folder at `dir`.
///
/// # Errors
/// As [`load_train`].
pub fn load_test(dir: &Path) -> Result<ImageDataset, DataError> {
    load(dir, "t10k")
}

fn load(dir: &Path, split: &str) -> Result<ImageDataset, DataError> {
    let metadata = std::fs::metadata(dir).map_err(DataError::io(dir))?;
    if metadata.is_file() {
        return assemble(dir, idx::read_file(dir, 3)?, None);
    }
    let Some(images) = find(dir, &format!("{split}-images-idx3-ubyte")) else {
        return Err(DataError::NothingFound { path: dir.to_owned(), found: listing(dir)? });
    };
    let pictures = idx::read_file(&images, 3)?;
    let labels = match find(dir, &format!("{split}-labels-idx1-ubyte")) {
        Some(path) => Some(idx::read_file(&path, 1)?),
        None => None,
    };
    assemble(&images, pictures, labels)
}

/// A data set from the bytes of an image file and a label file, plain or gzipped.
///
/// # Errors
/// Bytes that are not IDX or do not belong together.
pub fn from_bytes(images: &[u8], labels: &[u8]) -> Result<ImageDataset, DataError> {
    let name = "embedded digits";
    assemble(Path::new(name), idx::read_bytes(images, 3, name)?, Some(idx::read_bytes(labels, 1, name)?))
}

fn assemble(path: &Path, images: IdxArray, labels: Option<IdxArray>) -> Result<ImageDataset, DataError> {
    let image_shape = [1, images.dims[1], images.dims[2]];
    ImageDataset::new(images.data, labels.map(|l| l.data), image_shape)
        .map_err(|e| DataError::Mismatch { path: path.to_owned(), problem: e.to_string() })
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    [name.to_owned(), format!("{name}.gz")].into_iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

/// The first few names in a folder, for an error message.
fn listing(dir: &Path) -> Result<String, DataError> {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map_err(DataError::io(dir))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(match names.len() {
        0 => "an empty folder".to_owned(),
        n if n > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    })
}

/// The rule by which the digits that ship with the project were chosen: the first `per_class` of each class, in the
/// order of the file.
///
/// # Errors
/// A set without labels, or with fewer of some class.
pub fn class_balanced_subset(
    dataset: &ImageDataset,
    per_class: usize,
) -> Result<(IdxArray, IdxArray), DataError> {
    let labels = dataset
        .labels()
        .ok_or_else(|| DataError::Invalid("a class-balanced subset needs labels".to_owned()))?;
    let mut taken = [0; 256];
    let mut chosen = Vec::new();
    for (i, &label) in labels.iter().enumerate() {
        if taken[usize::from(label)] < per_class {
            taken[usize::from(label)] += 1;
            chosen.push(i);
        }
    }
    if let Some((class, n)) = taken.iter().enumerate().find(|(_, n)| **n > 0 && **n < per_class) {
        return Err(DataError::Invalid(format!(
            "class {class} has only {n} pictures of the {per_class} asked for"
        )));
    }
    let [_, height, width] = dataset.image_shape();
    let images = IdxArray {
        dims: vec![chosen.len(), height, width],
        data: chosen.iter().flat_map(|&i| dataset.image(i)).copied().collect(),
    };
    let labels = IdxArray { dims: vec![chosen.len()], data: chosen.iter().map(|&i| labels[i]).collect() };
    Ok((images, labels))
}
