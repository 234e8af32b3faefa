//! The binary batches of CIFAR-10 and CIFAR-100 (A. Krizhevsky 2009).
//!
//! ```text
//! CIFAR-10    1 byte: class                  3072 bytes: red, green and blue, each row by row
//! CIFAR-100   2 bytes: coarse, fine class    3072 bytes, as above
//! ```

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::{Content, Record, Records, SourceInfo, Split, numbered_name};
use crate::DataError;
use crate::prepare::decode::{Lost, Raster};

const SIDE: usize = 32;
const AREA: usize = SIDE * SIDE;
const PIXELS: usize = 3 * AREA;

/// Files of records in the order in which they are read.
#[derive(Debug)]
pub(super) struct Batches {
    files: Vec<PathBuf>,
    /// The number of bytes before the pixels; the last of them is the class.
    label_bytes: usize,
}

/// The batches of one split in the folder `path`, or in the folder that the archives of CIFAR
/// unpack to; `None` if there are none.
///
/// # Errors
/// If the batches are those for Python.
pub(super) fn files(path: &Path, split: Split) -> Result<Option<Vec<PathBuf>>, DataError> {
    const FOLDERS: [&str; 3] = ["", "cifar-10-batches-bin", "cifar-100-binary"];
    let names: [&[&str]; 2] = match split {
        Split::Train => [
            &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            &["train.bin"],
        ],
        Split::Test => [&["test_batch.bin"], &["test.bin"]],
    };
    let existing = |folder: &Path, names: &[&str]| -> Vec<PathBuf> {
        names.iter().map(|name| folder.join(name)).filter(|file| file.is_file()).collect()
    };
    let files = FOLDERS
        .iter()
        .flat_map(|folder| names.map(|names| existing(&path.join(folder), names)))
        .find(|files| !files.is_empty());
    let python = ["", "cifar-10-batches-py"].map(|folder| path.join(folder).join("data_batch_1"));
    match python.iter().find(|file| files.is_none() && file.is_file()) {
        Some(file) => Err(DataError::unusable(
            file,
            "the version of CIFAR for Python cannot be read; use the binary version \
             (cifar-10-binary.tar.gz)",
        )),
        None => Ok(files),
    }
}

pub(super) fn open(files: &[PathBuf]) -> Result<SourceInfo<Batches>, DataError> {
    // CIFAR-100's files are called train.bin and test.bin.
    let is_cifar100 =
        files[0].file_name().is_some_and(|name| name == "train.bin" || name == "test.bin");
    let label_bytes = if is_cifar100 { 2 } else { 1 };
    let record = label_bytes + PIXELS;
    let mut count = 0;
    for file in files {
        let length = fs::metadata(file).map_err(DataError::io(file))?.len() as usize;
        if length == 0 || !length.is_multiple_of(record) {
            return Err(DataError::Format {
                path: file.clone(),
                offset: (length / record * record) as u64,
                expected: format!("pictures of {record} bytes each"),
                found: format!("{} bytes", length % record),
            });
        }
        count += length / record;
    }
    let names = if is_cifar100 { "fine_label_names.txt" } else { "batches.meta.txt" };
    let folder = files[0].parent().unwrap_or(Path::new(""));
    let classes = class_names(&folder.join(names), if is_cifar100 { 100 } else { 10 });
    Ok(SourceInfo { kind: Batches { files: files.to_vec(), label_bytes }, classes, count })
}

/// Opens a single file as a batch; `None` if its length or its classes do not fit.
pub(super) fn open_one(path: &Path) -> Result<Option<SourceInfo<Batches>>, DataError> {
    for (label_bytes, classes) in [(1, 10), (2, 100)] {
        let length = fs::metadata(path).map_err(DataError::io(path))?.len() as usize;
        if length == 0 || !length.is_multiple_of(label_bytes + PIXELS) {
            continue;
        }
        let batches = Batches { files: vec![path.to_owned()], label_bytes };
        let plausible = batches.records().take(1000).all(|record| {
            record.is_ok_and(|record| record.label.is_some_and(|label| label < classes))
        });
        if plausible {
            let classes = (0..classes).map(|class| class.to_string()).collect();
            let count = length / (label_bytes + PIXELS);
            return Ok(Some(SourceInfo { kind: batches, classes, count }));
        }
    }
    Ok(None)
}

/// Class names from a file with one name per line; numbers if it is missing or does not have
/// `count` names.
fn class_names(path: &Path, count: usize) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.len() == count { names } else { (0..count).map(|class| class.to_string()).collect() }
}

impl Batches {
    pub(super) fn records(&self) -> Records<'_> {
        let record = self.label_bytes + PIXELS;
        let mut i = 0;
        let files = self.files.iter().flat_map(move |path| {
            let mut input = File::open(path).map(BufReader::new);
            std::iter::from_fn(move || {
                let mut bytes = vec![0; record];
                let read = match &mut input {
                    Ok(input) => read_record(input, &mut bytes),
                    Err(_) => File::open(path).map(|_| false),
                };
                match read {
                    Ok(true) => Some(Ok(bytes)),
                    Ok(false) => None,
                    Err(error) => Some(Err(DataError::io(path)(error))),
                }
            })
        });
        Box::new(files.map(move |bytes| {
            let bytes = bytes?;
            let (labels, planes) = bytes.split_at(self.label_bytes);
            i += 1;
            let label = labels.last().map(|label| u32::from(*label));
            Ok(Record {
                name: numbered_name(i - 1),
                label,
                content: Ok(Content::Raw(raster(planes))),
            })
        }))
    }
}

/// Fills `bytes` with the next record; returns false at the end of the input.
fn read_record(input: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<bool> {
    if input.read(&mut bytes[..1])? == 0 {
        return Ok(false);
    }
    input.read_exact(&mut bytes[1..]).map(|()| true)
}

fn raster(planes: &[u8]) -> Raster {
    let pixels =
        (0..AREA).flat_map(|i| [planes[i], planes[AREA + i], planes[2 * AREA + i]]).collect();
    Raster { width: SIDE, height: SIDE, channels: 3, pixels, form: "RGB", lost: Lost::default() }
}
