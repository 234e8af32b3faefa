//! Where pictures come from: [`Source::open`] recognises what lies at a path.
//!
//! | what | how it is recognised | classes |
//! |---|---|---|
//! | a folder of pictures | PNG, JPEG, WebP, BMP or GIF by their names | its first folders, or a table of labels |
//! | a tar (also gzipped) or zip archive | its first bytes | as in a folder |
//! | parquet, a file or a folder of shards | `PAR1` | an integer or text column |
//! | an npy or npz array | its first bytes | the array `labels` (or `y`, `arr_1`) of an npz |
//! | IDX files as of MNIST | names like `train-images-idx3-ubyte`, or `00 00 08 03` | the file of labels beside it |
//! | CIFAR-10's and CIFAR-100's binary batches | names like `data_batch_1.bin`, or lengths | the first byte, or the second |
//!
//! A table of labels is `metadata.csv`, `labels.csv` or `metadata.jsonl` at the top of a folder or archive, with columns
//! `file_name` and `label`. A folder or archive with `train` and `test` (or `val`, `valid`, `validation`) inside is two sets.

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

/// So many pictures are looked at to say what a source is like.
const SAMPLE: usize = 64;

/// A set of pictures on disk: what it is, and its classes. Opening it reads names and headers, no pixels.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    kind: Kind,
    classes: Vec<String>,
    count: usize,
    fingerprint: u64,
    /// More to say about how the path was understood.
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

/// What a reader of one format has found out.
#[derive(Debug)]
struct Found<K> {
    kind: K,
    classes: Vec<String>,
    count: usize,
}

/// One picture of a source. `Err` says in words why there is none.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) label: Option<u32>,
    pub(crate) content: Result<Content, String>,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// A file to read.
    File(PathBuf),
    /// The bytes of a file.
    Encoded(Vec<u8>),
    /// Pixels as they are.
    Raw(Raster),
}

/// Records in the order of the source. An `Err` ends them: the rest of the source cannot be read.
pub(crate) type Records<'a> = Box<dyn Iterator<Item = Result<Record, DataError>> + Send + 'a>;

impl Source {
    /// Recognises what lies at `path`.
    ///
    /// # Errors
    /// Nothing there, or nothing that can be recognised, with the names that were found; a damaged or contradictory
    /// container.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let metadata = fs::metadata(path).map_err(DataError::io(path))?;
        if metadata.is_dir() {
            Self::open_folder(path, split)
        } else {
            Self::open_file(path, split)
        }
    }

    /// A set that is in memory already; `name` stands for a path.
    pub fn from_dataset(dataset: crate::ImageDataset, name: &str) -> Self {
        let found =
            Found { classes: dataset.classes().to_vec(), count: dataset.len(), kind: dataset };
        Self::new(Path::new(name), found, &[], Kind::Memory)
    }

    fn new<K>(path: &Path, found: Found<K>, files: &[PathBuf], wrap: impl Fn(K) -> Kind) -> Self {
        let Found { kind, classes, count } = found;
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
        let (folder, part) = folder::part(path, split);
        let note = part.map(|part| format!("its part {part}"));
        let shards = folder::shards(&folder, split);
        if !shards.is_empty() {
            return Self::open_parquet(path, &shards);
        }
        let found = folder::open(&folder, part)?;
        let fingerprint = found.kind.fingerprint();
        Ok(Self { fingerprint, note, ..Self::new(path, found, &[], Kind::Files) })
    }

    fn open_file(path: &Path, split: Split) -> Result<Self, DataError> {
        let files = [path.to_owned()];
        if !path.is_file() {
            // Reading a pipe would wait for its writer.
            return Err(DataError::unusable(path, "not a regular file"));
        }
        let mut head = Vec::new();
        // A tar file names itself behind the name of its first file.
        File::open(path)
            .and_then(|file| file.take(512).read_to_end(&mut head))
            .map_err(DataError::io(path))?;
        let unpacked = if head.starts_with(&[0x1f, 0x8b]) {
            archive::gunzipped_head(path)?
        } else {
            Vec::new()
        };
        if archive::is_tar(&head) || archive::is_tar(&unpacked) || head.starts_with(b"PK\x03\x04") {
            if let Some(found) = array::open_npz(path, &head)? {
                return Ok(Self::new(path, found, &files, Kind::Array));
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
        if let Some(found) = cifar::open_one(path)? {
            return Ok(Self::new(path, found, &files, Kind::Cifar));
        }
        if decode::dimensions_of_file(path).is_ok() {
            let found = folder::one(path);
            let fingerprint = found.kind.fingerprint();
            return Ok(Self { fingerprint, ..Self::new(path, found, &[], Kind::Files) });
        }
        Err(DataError::unusable(
            path,
            "not recognised; expected a picture, a tar or zip archive, a parquet, npy, npz or IDX file, or a binary \
             batch of CIFAR",
        ))
    }

    fn open_idx(path: &Path, files: &[PathBuf], split: Split) -> Result<Self, DataError> {
        let dataset = mnist::load(path, split)?;
        let found =
            Found { classes: dataset.classes().to_vec(), count: dataset.len(), kind: dataset };
        Ok(Self::new(path, found, files, Kind::Idx))
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

    /// The names of the classes; a picture's label is the index of one of them. None: the pictures have no classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The number of pictures that there seem to be, damaged ones included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number that changes with the names, lengths and times of the source's files.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What it is, in words: `a folder of pictures`.
    pub fn what(&self) -> String {
        let what = match &self.kind {
            Kind::Files(_) => "pictures",
            Kind::Archive(archive) => archive.what(),
            #[cfg(feature = "parquet")]
            Kind::Parquet(_) => "parquet",
            Kind::Array(_) => "an array of numpy's",
            Kind::Idx(_) => "IDX files",
            Kind::Memory(_) => "in memory",
            Kind::Cifar(_) => "binary batches of CIFAR",
        };
        self.note.as_ref().map_or_else(|| what.to_owned(), |note| format!("{what}; {note}"))
    }

    /// Whether the pixels lie there as they are, so that nothing need be decoded.
    pub(crate) fn is_raw(&self) -> bool {
        matches!(self.kind, Kind::Array(_) | Kind::Idx(_) | Kind::Memory(_) | Kind::Cifar(_))
    }

    /// The pictures, one by one.
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

    /// The one size (width, height) of the first pictures, if they have one and its sides are at most `most`. Nothing but their headers is
    /// read; pictures without a readable one do not count.
    ///
    /// # Errors
    /// A source that breaks off.
    pub fn common_size(&self, most: usize) -> Result<Option<(usize, usize)>, DataError> {
        let mut common = None;
        for record in self.records()?.take(SAMPLE) {
            let Ok(size) = record?.content.and_then(|content| content.dimensions()) else {
                continue;
            };
            if size.0.max(size.1) > most || common.is_some_and(|common| common != size) {
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
        (0..area).flat_map(|at| (0..channels).map(move |c| planes[c * area + at])).collect();
    let form = if channels == 1 { "grey" } else { "RGB" };
    let raster = Raster { width, height, channels, pixels, form };
    Record { name: dataset.name(i), label: dataset.label(i), content: Ok(Content::Raw(raster)) }
}

/// The name of a picture that has only a place.
fn numbered(i: usize) -> String {
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

    /// The picture.
    pub(crate) fn decode(self) -> Result<Raster, String> {
        match self {
            Self::File(path) => decode::decode(&decode::read_file(&path)?),
            Self::Encoded(bytes) => decode::decode(&bytes),
            Self::Raw(raster) => Ok(raster),
        }
    }
}
