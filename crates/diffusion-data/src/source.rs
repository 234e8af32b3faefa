//! Sources of pictures: [`Source::open`] recognises the format of a path.
//!
//! | format | recognised by | classes |
//! |---|---|---|
//! | folder of pictures | PNG, JPEG, WebP, BMP, GIF or TIFF files | top folders or a table of labels |
//! | tar (also gzipped) or zip archive | first bytes | as in a folder |
//! | parquet file, or folder of shards | `PAR1` | an integer or text column |
//! | npy or npz array | first bytes | the array `labels` (or `y`, `arr_1`) of an npz |
//! | IDX files of MNIST | `00 00 08 03` | the label file beside it |
//! | CIFAR binary batches | names like `data_batch_1.bin`, or length | 1st (CIFAR-100: 2nd) byte |
//!
//! A table of labels is `metadata.csv`, `labels.csv`, `metadata.jsonl` or `metadata.parquet` in a
//! folder above the pictures, with the columns `file_name`, relative to the table, and `label`.
//! A folder or archive that contains `train` and `test` (or `val`, `valid`, `validation`) has two
//! splits. In a folder, pictures come first: files of other formats beside them are not used.
//!
//! - `kind`: what a file is, by its name and first bytes.
//! - `listing`: which files are the pictures of a split, and their classes.
//! - `table`: tables of labels.

mod archive;
mod array;
mod cifar;
mod folder;
pub mod idx;
mod kind;
mod listing;
pub mod mnist;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
mod table;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) use self::kind::{has_picture_ending, other_format};
pub(crate) use self::listing::{folders_give, kind_of_split};

use self::folder::FolderFiles;
use crate::error::first_names;
use crate::prepare::decode::{self, Lost, Raster};
use crate::{DataError, Split};

/// What a folder or an archive should contain, for an error.
const EXPECTED: &str = "files ending in .png, .jpg, .webp, .bmp, .gif or .tif, or IDX, CIFAR, \
                        parquet or npy files";

/// A set of pictures on disk, with its classes. Opening it reads names, headers and labels; most
/// formats' pixels are read later.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    kind: Kind,
    classes: Vec<String>,
    count: usize,
    fingerprint: u64,
    /// The folder of the split that was opened.
    split: Option<String>,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Kind {
    Files(folder::Files),
    Archive(archive::Archive),
    #[cfg(feature = "parquet")]
    Parquet(parquet::Shards),
    Array(array::Arrays),
    Idx(crate::ImageDataset),
    Memory(crate::ImageDataset),
    Cifar(cifar::Batches),
}

/// The reader of one format, with the classes and the number of pictures that it found.
#[derive(Debug)]
struct SourceInfo<K> {
    kind: K,
    classes: Vec<String>,
    count: usize,
}

/// One picture of a source. If the content is `Err`, it says why the picture cannot be read.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) label: Option<u32>,
    pub(crate) content: Result<Content, String>,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// The path of a picture file.
    File(PathBuf),
    /// The bytes of a picture file.
    Encoded(Vec<u8>),
    /// Decoded pixels.
    Raw(Raster),
}

/// Records in the order of the source. An `Err` is the last item: the rest of the source cannot be
/// read.
pub(crate) type Records<'a> = Box<dyn Iterator<Item = Result<Record, DataError>> + Send + 'a>;

impl Source {
    /// Opens the file or folder at `path`.
    ///
    /// # Errors
    /// An I/O error, if `path` does not exist or cannot be read. If it contains no pictures or its
    /// format is not recognised. If a container is damaged or contradicts itself.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let metadata = fs::metadata(path).map_err(DataError::io(path))?;
        if metadata.is_dir() {
            Self::open_folder(path, split)
        } else {
            Self::open_file(path, split)
        }
    }

    /// A source from a data set in memory. `name` takes the place of the path.
    pub fn from_dataset(dataset: crate::ImageDataset, name: &str) -> Self {
        let info =
            SourceInfo { classes: dataset.classes().to_vec(), count: dataset.len(), kind: dataset };
        Self::new(Path::new(name), info, &[], Kind::Memory)
    }

    fn new<K>(
        path: &Path,
        info: SourceInfo<K>,
        files: &[PathBuf],
        wrap: impl Fn(K) -> Kind,
    ) -> Self {
        let SourceInfo { kind, classes, count } = info;
        let fingerprint = listing::fingerprint(files);
        Self {
            path: path.to_owned(),
            kind: wrap(kind),
            classes,
            count,
            fingerprint,
            split: None,
            notes: Vec::new(),
        }
    }

    fn with_notes(self, notes: Vec<String>) -> Self {
        Self { notes, ..self }
    }

    fn open_folder(path: &Path, split: Split) -> Result<Self, DataError> {
        let files = FolderFiles::find(path)?;
        if files.has_pictures() {
            let (info, list) = files.open(path, split)?;
            let fingerprint = info.kind.fingerprint();
            let source = Self::new(path, info, &[], Kind::Files);
            return Ok(Self { fingerprint, split: list.part, notes: list.notes, ..source });
        }
        if let Some(pointer) = files.first_pointer() {
            let problem =
                "this is a Git LFS pointer, not the file itself; `git lfs pull` downloads it";
            return Err(DataError::unusable(&path.join(pointer), problem));
        }
        if let Some(files) = mnist::files(path, split)? {
            return Self::open_idx(path, &files);
        }
        if let Some(files) = cifar::files(path, split)? {
            return Ok(Self::new(path, cifar::open(&files)?, &files, Kind::Cifar));
        }
        let shards = folder::shards(path, split);
        if !shards.is_empty() {
            return Self::open_parquet(path, &shards);
        }
        let names = files.names();
        let mut arrays = names
            .iter()
            .filter(|name| [Some("npy"), Some("npz")].contains(&kind::ending(name).as_deref()));
        if let (Some(array), None) = (arrays.next(), arrays.next()) {
            let source = Self::open_file(&path.join(array), split)?;
            return Ok(Self { path: path.to_owned(), ..source });
        }
        Err(DataError::NothingFound {
            path: path.to_owned(),
            expected: EXPECTED,
            found: first_names(&names),
        })
    }

    fn open_file(path: &Path, split: Split) -> Result<Self, DataError> {
        let files = [path.to_owned()];
        if !path.is_file() {
            // Reading a pipe would block until something writes to it.
            return Err(DataError::unusable(path, "not a regular file"));
        }
        let mut head = Vec::new();
        // The magic number of a tar file comes after the name of its first file.
        File::open(path)
            .and_then(|file| file.take(512).read_to_end(&mut head))
            .map_err(DataError::io(path))?;
        let unpacked = if head.starts_with(&[0x1f, 0x8b]) {
            archive::gunzipped_head(path)?
        } else {
            Vec::new()
        };
        if archive::is_tar(&head) || archive::is_tar(&unpacked) || head.starts_with(b"PK\x03\x04") {
            if let Some(info) = array::open_npz(path, &head)? {
                return Ok(Self::new_array(path, info, &files));
            }
            let (info, list) = archive::open(path, split)?;
            let source = Self::new(path, info, &files, Kind::Archive);
            return Ok(Self { split: list.part, notes: list.notes, ..source });
        }
        if head.starts_with(b"PAR1") {
            return Self::open_parquet(path, &files);
        }
        if head.starts_with(array::NPY_MAGIC) {
            return Ok(Self::new_array(path, array::open_npy(path)?, &files));
        }
        if head.starts_with(&[0, 0, 8]) || unpacked.starts_with(&[0, 0, 8]) {
            return Self::open_idx(path, &mnist::files_of(path));
        }
        if let Some(info) = cifar::open_one(path)? {
            return Ok(Self::new(path, info, &files, Kind::Cifar));
        }
        if decode::dimensions_of_file(path).is_ok() {
            let info = folder::open_one(path);
            let fingerprint = info.kind.fingerprint();
            return Ok(Self { fingerprint, ..Self::new(path, info, &[], Kind::Files) });
        }
        let problem = kind::other_format(&head).map_or_else(
            || {
                "not recognised; expected a picture, a tar or zip archive, a parquet, npy, npz or \
                 IDX file, or a CIFAR binary batch"
                    .to_owned()
            },
            str::to_owned,
        );
        Err(DataError::unusable(path, problem))
    }

    fn open_idx(path: &Path, files: &mnist::IdxFiles) -> Result<Self, DataError> {
        let dataset = mnist::load(files)?;
        let info =
            SourceInfo { classes: dataset.classes().to_vec(), count: dataset.len(), kind: dataset };
        let notes = files.notes();
        Ok(Self::new(path, info, &files.paths(), Kind::Idx).with_notes(notes))
    }

    fn new_array(path: &Path, info: SourceInfo<array::Arrays>, files: &[PathBuf]) -> Self {
        let notes = info.kind.notes();
        Self::new(path, info, files, Kind::Array).with_notes(notes)
    }

    #[cfg(feature = "parquet")]
    fn open_parquet(path: &Path, shards: &[PathBuf]) -> Result<Self, DataError> {
        let (info, notes) = parquet::open(shards)?;
        Ok(Self::new(path, info, shards, Kind::Parquet).with_notes(notes))
    }

    #[cfg(not(feature = "parquet"))]
    fn open_parquet(path: &Path, _: &[PathBuf]) -> Result<Self, DataError> {
        let problem = "this program was built without parquet; build it with the feature `parquet`";
        Err(DataError::unusable(path, problem))
    }

    /// The names of the classes; a picture's label is an index into them. Empty if the pictures
    /// have no classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The expected number of pictures, including damaged ones.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A hash of the names, lengths and modification times of the source's files.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What a user should know about the source: files that are not used, pictures without a class,
    /// or a range of numbers that was guessed. Each is one line of text.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The kind of source in words, such as `a zip archive` or `pictures; split train`.
    pub fn description(&self) -> String {
        let kind = match &self.kind {
            Kind::Files(_) => "pictures".to_owned(),
            Kind::Archive(archive) => archive.description().to_owned(),
            #[cfg(feature = "parquet")]
            Kind::Parquet(_) => "parquet".to_owned(),
            Kind::Array(arrays) => arrays.description(),
            Kind::Idx(_) => "IDX files".to_owned(),
            Kind::Memory(_) => "in memory".to_owned(),
            Kind::Cifar(_) => "binary batches of CIFAR".to_owned(),
        };
        self.split.as_ref().map_or_else(|| kind.clone(), |split| format!("{kind}; split {split}"))
    }

    /// Whether the source stores decoded pixels.
    pub(crate) fn is_raw(&self) -> bool {
        matches!(self.kind, Kind::Array(_) | Kind::Idx(_) | Kind::Memory(_) | Kind::Cifar(_))
    }

    /// The pictures in the order of the source.
    pub(crate) fn records(&self) -> Result<Records<'_>, DataError> {
        Ok(match &self.kind {
            Kind::Files(files) => files.records(),
            Kind::Archive(archive) => archive.records()?,
            #[cfg(feature = "parquet")]
            Kind::Parquet(shards) => shards.records(),
            Kind::Array(arrays) => arrays.records(),
            Kind::Idx(dataset) | Kind::Memory(dataset) => {
                Box::new((0..dataset.len()).map(|i| Ok(dataset_record(dataset, i))))
            }
            Kind::Cifar(batches) => batches.records(),
        })
    }

    /// The sizes in the headers of all pictures. Pictures without a readable header are left out.
    ///
    /// # Errors
    /// If the source cannot be read.
    pub fn sizes(&self) -> Result<SizeSurvey, DataError> {
        let raw = self.is_raw();
        let mut survey = SizeSurvey::default();
        for record in self.records()? {
            let Record { name, content, .. } = record?;
            let Ok(size) = content.and_then(|content| content.dimensions()) else { continue };
            survey.add(name, size);
            if raw {
                // All pictures of these formats have one size.
                break;
            }
        }
        Ok(survey)
    }
}

/// How many pictures of a source have each size, by their headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SizeSurvey {
    /// For each (width, height) in pixels: the number of pictures, and the name of the first.
    sizes: BTreeMap<(usize, usize), (usize, String)>,
}

impl SizeSurvey {
    pub(crate) fn add(&mut self, name: String, size: (usize, usize)) {
        self.sizes.entry(size).or_insert((0, name)).0 += 1;
    }

    /// Width, height and number of pictures of each size.
    pub(crate) fn counts(&self) -> Vec<(usize, usize, usize)> {
        self.sizes.iter().map(|(&(width, height), (count, _))| (width, height, *count)).collect()
    }

    /// The most frequent (width, height) in pixels; the smallest of several. `None` if no picture
    /// has a readable header.
    pub fn most_frequent(&self) -> Option<(usize, usize)> {
        let (size, _) = self.sizes.iter().rev().max_by_key(|(_, (count, _))| *count)?;
        Some(*size)
    }

    /// The share of the pictures that have the most frequent size, 0 to 1.
    pub fn share(&self) -> f64 {
        let counts = || self.sizes.values().map(|(count, _)| *count);
        counts().max().unwrap_or_default() as f64 / counts().sum::<usize>().max(1) as f64
    }

    /// The pictures of other sizes: the width, height and number of pictures of each size, and the
    /// name of the first.
    pub fn others(&self) -> Vec<(usize, usize, usize, &str)> {
        let most = self.most_frequent();
        let others = self.sizes.iter().filter(|(size, _)| Some(**size) != most);
        others.map(|(&(w, h), (count, name))| (w, h, *count, name.as_str())).collect()
    }
}

/// The picture files of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PictureFiles {
    /// The name of each file below the folder, with `/` as separator, and its path; in the order of
    /// the names.
    pub files: Vec<(String, PathBuf)>,
    /// What a user should know: files that are not used or cannot be read.
    pub notes: Vec<String>,
}

/// The picture files in the folder at `path` and in its subfolders, as [`Source::open`] finds them,
/// of all splits.
///
/// # Errors
/// An I/O error, if the folder does not exist or cannot be read.
pub fn picture_files(path: &Path) -> Result<PictureFiles, DataError> {
    Ok(FolderFiles::find(path)?.pictures())
}

fn dataset_record(dataset: &crate::ImageDataset, i: usize) -> Record {
    let [channels, height, width] = dataset.image_shape();
    let (planes, area) = (dataset.image(i), height * width);
    let pixels =
        (0..area).flat_map(|pixel| (0..channels).map(move |c| planes[c * area + pixel])).collect();
    let form = if channels == 1 { "grey" } else { "RGB" };
    let raster = Raster { width, height, channels, pixels, form, lost: Lost::default() };
    Record { name: dataset.name(i), label: dataset.label(i), content: Ok(Content::Raw(raster)) }
}

/// The name of a picture that has a number instead of a name.
fn numbered_name(i: usize) -> String {
    format!("{i:06}")
}

impl Content {
    fn dimensions(&self) -> Result<(usize, usize), String> {
        match self {
            Self::File(path) => decode::header_dimensions(path),
            Self::Encoded(bytes) => decode::dimensions(bytes),
            Self::Raw(raster) => Ok((raster.width, raster.height)),
        }
    }

    /// Decodes the picture.
    pub(crate) fn decode(self) -> Result<Raster, String> {
        match self {
            Self::File(path) => decode::decode(&decode::read_file(&path)?),
            Self::Encoded(bytes) => decode::decode(&bytes),
            Self::Raw(raster) => Ok(raster),
        }
    }
}
