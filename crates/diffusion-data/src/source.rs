//! Sources of pictures: [`Source::open`] recognises the format of a path.
//!
//! | format | recognised by | classes |
//! |---|---|---|
//! | folder of pictures | names of PNG, JPEG, WebP, BMP or GIF | top folders or a table of labels |
//! | tar (also gzipped) or zip archive | first bytes | as in a folder |
//! | parquet file, or folder of shards | `PAR1` | an integer or text column |
//! | npy or npz array | first bytes | the array `labels` (or `y`, `arr_1`) of an npz |
//! | IDX files of MNIST | names like `train-images-idx3-ubyte`, or `00 00 08 03` | the label file |
//! | CIFAR binary batches | names like `data_batch_1.bin`, or length | 1st (CIFAR-100: 2nd) byte |
//!
//! A table of labels is `metadata.csv`, `labels.csv` or `metadata.jsonl` at the top of a folder or
//! archive, with columns `file_name` and `label`. A folder or archive that contains `train` and
//! `test` (or `val`, `valid`, `validation`) has two splits.

mod archive;
mod array;
mod cifar;
mod folder;
pub mod idx;
mod listing;
pub mod mnist;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) use listing::is_picture;

use crate::prepare::decode::{self, Raster};
use crate::{DataError, Split};

/// How many pictures are read to find the common size of a source.
const SIZE_SAMPLE: usize = 64;

/// A set of pictures on disk, with its classes. Opening it reads names, headers and labels; most
/// formats' pixels are read later.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    kind: Kind,
    classes: Vec<String>,
    count: usize,
    fingerprint: u64,
    /// An addition to the description, such as the split that was opened.
    note: Option<String>,
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
        Self { path: path.to_owned(), kind: wrap(kind), classes, count, fingerprint, note: None }
    }

    fn open_folder(path: &Path, split: Split) -> Result<Self, DataError> {
        if let Some(files) = mnist::files(path, split) {
            return Self::open_idx(path, &files, split);
        }
        if let Some(files) = cifar::files(path, split) {
            return Ok(Self::new(path, cifar::open(&files)?, &files, Kind::Cifar));
        }
        let (folder, part) = folder::split_folder(path, split);
        let note = part.map(|part| format!("split {part}"));
        let shards = folder::shards(&folder, split);
        if !shards.is_empty() {
            return Self::open_parquet(path, &shards);
        }
        let info = folder::open(&folder, part)?;
        let fingerprint = info.kind.fingerprint();
        Ok(Self { fingerprint, note, ..Self::new(path, info, &[], Kind::Files) })
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
                return Ok(Self::new(path, info, &files, Kind::Array));
            }
            return Ok(Self::new(path, archive::open(path, split)?, &files, Kind::Archive));
        }
        if head.starts_with(b"PAR1") {
            return Self::open_parquet(path, &files);
        }
        if head.starts_with(array::NPY_MAGIC) {
            return Ok(Self::new(path, array::open_npy(path)?, &files, Kind::Array));
        }
        if head.starts_with(&[0, 0, 8]) || unpacked.starts_with(&[0, 0, 8]) {
            return Self::open_idx(path, &files, split);
        }
        if let Some(info) = cifar::open_one(path)? {
            return Ok(Self::new(path, info, &files, Kind::Cifar));
        }
        if decode::dimensions_of_file(path).is_ok() {
            let info = folder::open_one(path);
            let fingerprint = info.kind.fingerprint();
            return Ok(Self { fingerprint, ..Self::new(path, info, &[], Kind::Files) });
        }
        Err(DataError::unusable(
            path,
            "not recognised; expected a picture, a tar or zip archive, a parquet, npy, npz or IDX \
             file, or a CIFAR binary batch",
        ))
    }

    fn open_idx(path: &Path, files: &[PathBuf], split: Split) -> Result<Self, DataError> {
        let dataset = mnist::load(path, split)?;
        let info =
            SourceInfo { classes: dataset.classes().to_vec(), count: dataset.len(), kind: dataset };
        Ok(Self::new(path, info, files, Kind::Idx))
    }

    #[cfg(feature = "parquet")]
    fn open_parquet(path: &Path, shards: &[PathBuf]) -> Result<Self, DataError> {
        Ok(Self::new(path, parquet::open(shards)?, shards, Kind::Parquet))
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

    /// The kind of source in words, such as `a zip archive` or `pictures; split train`.
    pub fn description(&self) -> String {
        let kind = match &self.kind {
            Kind::Files(_) => "pictures",
            Kind::Archive(archive) => archive.description(),
            #[cfg(feature = "parquet")]
            Kind::Parquet(_) => "parquet",
            Kind::Array(_) => "a numpy array",
            Kind::Idx(_) => "IDX files",
            Kind::Memory(_) => "in memory",
            Kind::Cifar(_) => "binary batches of CIFAR",
        };
        self.note.as_ref().map_or_else(|| kind.to_owned(), |note| format!("{kind}; {note}"))
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

    /// The size (width, height) in pixels that the first 64 pictures share, if no side is longer
    /// than `max_side`. Pictures without a readable header are ignored.
    ///
    /// # Errors
    /// If the source cannot be read.
    pub fn common_size(&self, max_side: usize) -> Result<Option<(usize, usize)>, DataError> {
        let mut common = None;
        for record in self.records()?.take(SIZE_SAMPLE) {
            let Ok(size) = record?.content.and_then(|content| content.dimensions()) else {
                continue;
            };
            if size.0.max(size.1) > max_side || common.is_some_and(|common| common != size) {
                return Ok(None);
            }
            common = Some(size);
        }
        Ok(common)
    }
}

fn dataset_record(dataset: &crate::ImageDataset, i: usize) -> Record {
    let [channels, height, width] = dataset.image_shape();
    let (planes, area) = (dataset.image(i), height * width);
    let pixels =
        (0..area).flat_map(|pixel| (0..channels).map(move |c| planes[c * area + pixel])).collect();
    let form = if channels == 1 { "grey" } else { "RGB" };
    let raster = Raster { width, height, channels, pixels, form };
    Record { name: dataset.name(i), label: dataset.label(i), content: Ok(Content::Raw(raster)) }
}

/// The name of a picture that has a number instead of a name.
fn numbered_name(i: usize) -> String {
    format!("{i:06}")
}

impl Content {
    fn dimensions(&self) -> Result<(usize, usize), String> {
        match self {
            Self::File(path) => decode::dimensions_of_file(path),
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
