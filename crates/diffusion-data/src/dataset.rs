//! Data sets of pictures of one size, in memory or in a mapped file.
//!
//! - `loader`: shuffled batches.
//! - `augment`: random transformations with labels.
//! - `candle`: data sets loaded by candle-datasets (feature `candle-datasets`).
//! - `classes`: names and order of classes.
//! - `hash`: the stable hash that chooses subsets.

mod augment;
#[cfg(feature = "candle-datasets")]
mod candle;
pub(crate) mod classes;
pub(crate) mod hash;
pub(crate) mod loader;

use std::hash::Hasher;
use std::ops::Range;
use std::sync::Arc;

pub use self::augment::AUGMENTATION_LABELS;

use candle_core::{Device, Tensor};
use memmap2::Mmap;

use crate::DataError;
use crate::dataset::hash::StableHasher;

/// 8-bit pictures of one size with optional classes. Clones and subsets share the pixels.
#[derive(Clone, Debug)]
pub struct ImageDataset {
    pixels: Arc<Pixels>,
    image_shape: [usize; 3],
    /// The side of the windows for training, if random windows are cut out of larger pictures.
    window: Option<usize>,
    /// The places in `pixels` of the pictures that belong to the set, in order.
    chosen: Arc<[u32]>,
    metadata: Arc<Metadata>,
}

/// Names and labels of the pictures in [`Pixels`], and the names of the classes. `names` and
/// `labels` have one entry per picture or are empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) names: Vec<String>,
    pub(crate) labels: Vec<Option<u32>>,
    pub(crate) classes: Vec<String>,
}

/// The N·C·H·W bytes of all pictures.
#[derive(Debug)]
pub(crate) enum Pixels {
    Memory(Vec<u8>),
    Mapped(Mmap, Range<usize>),
}

impl Pixels {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Mapped(map, range) => &map[range.clone()],
        }
    }
}

impl ImageDataset {
    /// Creates a data set from `pixels`, N·C·H·W bytes in that order, and N labels; `image_shape`
    /// is [C, H, W]. The classes are named by their numbers.
    ///
    /// # Errors
    /// If there are no pictures, the length of `pixels` is not a multiple of C·H·W, or the number
    /// of labels is not N.
    pub fn new(
        pixels: Vec<u8>,
        labels: Option<Vec<u8>>,
        image_shape: [usize; 3],
    ) -> Result<Self, DataError> {
        let labels: Vec<_> =
            labels.into_iter().flatten().map(|label| Some(u32::from(label))).collect();
        let classes = classes::numbered_classes(labels.iter().flatten().max());
        Self::assemble(
            Pixels::Memory(pixels),
            Metadata { labels, classes, names: Vec::new() },
            image_shape,
        )
    }

    pub(crate) fn assemble(
        pixels: Pixels,
        metadata: Metadata,
        image_shape: [usize; 3],
    ) -> Result<Self, DataError> {
        let bytes = pixels.bytes().len();
        let per_image: usize = image_shape.iter().product();
        if bytes == 0 || per_image == 0 {
            return Err(DataError::Invalid("a data set needs at least one picture".to_owned()));
        }
        if !bytes.is_multiple_of(per_image) {
            return Err(DataError::Invalid(format!(
                "{bytes} bytes are not a multiple of the picture size {image_shape:?}"
            )));
        }
        let count = bytes / per_image;
        let count_u32 = u32::try_from(count).map_err(|_| {
            DataError::Invalid(format!("a data set has at most {} pictures, got {count}", u32::MAX))
        })?;
        for (list, length) in [("labels", metadata.labels.len()), ("names", metadata.names.len())] {
            if length != 0 && length != count {
                return Err(DataError::Invalid(format!("{length} {list} for {count} pictures")));
            }
        }
        let (pixels, metadata) = (Arc::new(pixels), Arc::new(metadata));
        Ok(Self { pixels, image_shape, window: None, chosen: (0..count_u32).collect(), metadata })
    }

    /// The number of pictures, at least 1.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// The shape [C, H, W] of every picture as it is used in training.
    pub fn image_shape(&self) -> [usize; 3] {
        let [channels, height, width] = self.image_shape;
        self.window.map_or([channels, height, width], |side| [channels, side, side])
    }

    /// The same pictures, but training cuts windows of `side`×`side` pixels out of them.
    pub(crate) fn with_window(self, side: usize) -> Self {
        Self { window: Some(side), ..self }
    }

    /// The names of the classes; empty if the set has no classes.
    pub fn classes(&self) -> &[String] {
        &self.metadata.classes
    }

    /// The class of picture `i` as an index into [`classes`](Self::classes), if it has one.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    pub fn label(&self, i: usize) -> Option<u32> {
        self.metadata.labels.get(self.chosen[i] as usize).copied().flatten()
    }

    /// The name of picture `i`: its path in the source if it has one, otherwise its number there.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    pub fn name(&self, i: usize) -> String {
        let place = self.chosen[i] as usize;
        self.metadata.names.get(place).cloned().unwrap_or_else(|| format!("{place:06}"))
    }

    /// The stored pixels of picture `i`, C·H·W bytes. The picture is larger than
    /// [`image_shape`](Self::image_shape) if random windows are cut out of it.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    pub fn image(&self, i: usize) -> &[u8] {
        let n: usize = self.image_shape.iter().product();
        let place = self.chosen[i] as usize;
        &self.pixels.bytes()[place * n..(place + 1) * n]
    }

    /// Writes picture `i` to `values` as C·H·W numbers, black −1 and white 1. The window's corner
    /// is at (`top`, `left`); `flip` mirrors it left to right.
    pub(crate) fn write_window(
        &self,
        i: usize,
        (top, left): (usize, usize),
        flip: bool,
        values: &mut [f32],
    ) {
        let [_, height, width] = self.image_shape;
        let [_, rows, columns] = self.image_shape();
        let image = self.image(i);
        for (row, target) in values.chunks_exact_mut(columns).enumerate() {
            let (plane, y) = (row / rows, row % rows);
            let start = (plane * height + top + y) * width + left;
            let source = &image[start..start + columns];
            for (value, byte) in target.iter_mut().zip(source) {
                *value = f32::from(*byte) / 127.5 - 1.0;
            }
            if flip {
                target.reverse();
            }
        }
    }

    /// The largest offset of a window's corner, downwards and to the right.
    pub(crate) fn slack(&self) -> (usize, usize) {
        let ([_, height, width], [_, rows, columns]) = (self.image_shape, self.image_shape());
        (height - rows, width - columns)
    }

    /// The pictures with the given indices as (N, C, H, W) in f32, black −1 and white 1. If
    /// training cuts random windows, the middle window is used.
    ///
    /// # Errors
    /// An error of the device.
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    pub fn images(&self, indices: &[usize], device: &Device) -> Result<Tensor, DataError> {
        let [c, h, w] = self.image_shape();
        let (down, right) = self.slack();
        let mut values = vec![0.0; indices.len() * c * h * w];
        for (&i, values) in indices.iter().zip(values.chunks_exact_mut(c * h * w)) {
            self.write_window(i, (down / 2, right / 2), false, values);
        }
        Ok(Tensor::from_vec(values, (indices.len(), c, h, w), device)?)
    }

    /// The subset of the pictures of the named classes. The list of classes stays the same.
    ///
    /// # Errors
    /// If a name is not one of the classes, or no picture belongs to the named classes.
    pub fn of_classes(&self, names: &[String]) -> Result<Self, DataError> {
        let index = |name: &String| {
            let place = classes::find_class(self.classes(), name);
            place.map(|place| place as u32).ok_or_else(|| {
                let known = match self.classes() {
                    [] => "the set has no classes".to_owned(),
                    classes => format!("the classes are {}", classes.join(", ")),
                };
                DataError::Invalid(format!("there is no class {name:?}: {known}"))
            })
        };
        let indices = names.iter().map(index).collect::<Result<Vec<_>, _>>()?;
        self.subset(|i| self.label(i).is_some_and(|label| indices.contains(&label)))
    }

    /// The subset of the pictures that have a class.
    ///
    /// # Errors
    /// If no picture has a class.
    pub fn labelled(&self) -> Result<Self, DataError> {
        let none = |_| {
            DataError::Invalid(
                "none of the pictures has a class; classes come from folders or labels".to_owned(),
            )
        };
        self.subset(|i| self.label(i).is_some()).map_err(none)
    }

    /// A subset of `count` pictures, chosen by a hash of their names; all pictures if there are
    /// fewer.
    ///
    /// # Errors
    /// If `count` is 0.
    pub fn limited(&self, count: usize) -> Result<Self, DataError> {
        if count == 0 {
            return Err(DataError::Invalid(
                "the selection leaves no picture of the data set".to_owned(),
            ));
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|i| (self.name_hash(*i, b"limit"), *i));
        order.truncate(count);
        order.sort_unstable();
        let chosen = order.into_iter().map(|i| self.chosen[i]).collect();
        Ok(Self { chosen, ..self.clone() })
    }

    /// Splits the set into training and validation pictures; about the share `validation` is in the
    /// second. A hash of its name chooses each picture's split, which therefore does not change
    /// when others are added or removed.
    ///
    /// # Errors
    /// If one of the two splits would be empty.
    pub fn split(&self, validation: f64) -> Result<(Self, Self), DataError> {
        let held_back =
            |i| (self.name_hash(i, b"validation") as f64 / u64::MAX as f64) < validation;
        let none = |_| {
            let count = self.len();
            DataError::Invalid(format!(
                "a share of {validation} of {count} pictures leaves training or validation empty"
            ))
        };
        Ok((self.subset(|i| !held_back(i)).map_err(none)?, self.subset(held_back).map_err(none)?))
    }

    fn subset(&self, belongs: impl Fn(usize) -> bool) -> Result<Self, DataError> {
        let chosen: Arc<[u32]> =
            (0..self.len()).filter(|i| belongs(*i)).map(|i| self.chosen[i]).collect();
        if chosen.is_empty() {
            return Err(DataError::Invalid(
                "the selection leaves no picture of the data set".to_owned(),
            ));
        }
        Ok(Self { chosen, ..self.clone() })
    }

    /// A hash of the name of picture `i`, independent for each `purpose`.
    fn name_hash(&self, i: usize, purpose: &[u8]) -> u64 {
        let mut hash = StableHasher::default();
        hash.write(purpose);
        hash.write(self.name(i).as_bytes());
        hash.finish()
    }

    /// A checksum of the pictures and their classes. It shows whether a resumed run has other data
    /// than it began with.
    pub fn fingerprint(&self) -> u32 {
        let mut crc = flate2::Crc::new();
        for dim in self.image_shape {
            crc.update(&(dim as u64).to_le_bytes());
        }
        for i in 0..self.len() {
            crc.update(self.image(i));
        }
        for i in 0..self.len() {
            match self.label(i) {
                Some(label) if self.classes().len() <= 256 => crc.update(&[label as u8]),
                Some(label) => crc.update(&label.to_le_bytes()),
                None if self.classes().is_empty() => {}
                None => crc.update(b"none"),
            }
        }
        crc.sum()
    }
}
