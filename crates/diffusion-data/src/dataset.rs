//! Pictures of one size, in memory or in a mapped file.
//!
//! - `loader`: shuffled batches of them.
//! - `candle`: data sets that candle-datasets has loaded, behind a feature.
//! - `hash`: a hash that is the same everywhere, by which parts are chosen.

#[cfg(feature = "candle-datasets")]
mod candle;
pub(crate) mod hash;
pub(crate) mod loader;

use std::hash::Hasher;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use memmap2::Mmap;

use crate::DataError;
use crate::dataset::hash::StableHasher;

/// 8-bit pictures of one size, with a class each if there are classes. Clones and parts share the pixels.
#[derive(Clone, Debug)]
pub struct ImageDataset {
    pixels: Arc<Pixels>,
    image_shape: [usize; 3],
    /// The side of the squares to train on, where the pictures are larger and windows are cut out of them.
    window: Option<usize>,
    /// Of the pictures in `pixels`, those that belong to the set, in order.
    chosen: Arc<[u32]>,
    about: Arc<About>,
}

/// What is known about the pictures in `pixels`, each list as long as they are many, or empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    pub(crate) names: Vec<String>,
    pub(crate) labels: Vec<Option<u32>>,
    pub(crate) classes: Vec<String>,
}

/// Names for classes that have none: the numbers up to that of the last; none without a last.
pub(crate) fn numbered_classes(last: Option<&u32>) -> Vec<String> {
    last.map_or_else(Vec::new, |last| (0..=*last).map(|class| class.to_string()).collect())
}

/// N·C·H·W bytes.
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
    /// From `pixels`, N·C·H·W bytes in that order, and N labels below 256; `image_shape` is [C, H, W]. The classes are named
    /// by their numbers.
    ///
    /// # Errors
    /// No pictures; a length that is not a multiple of the picture's; a count of labels other than N.
    pub fn new(
        pixels: Vec<u8>,
        labels: Option<Vec<u8>>,
        image_shape: [usize; 3],
    ) -> Result<Self, DataError> {
        let labels: Vec<_> =
            labels.into_iter().flatten().map(|label| Some(u32::from(label))).collect();
        let classes = numbered_classes(labels.iter().flatten().max());
        Self::assemble(
            Pixels::Memory(pixels),
            About { labels, classes, names: Vec::new() },
            image_shape,
        )
    }

    pub(crate) fn assemble(
        pixels: Pixels,
        about: About,
        image_shape: [usize; 3],
    ) -> Result<Self, DataError> {
        let bytes = pixels.bytes().len();
        let per_image: usize = image_shape.iter().product();
        if bytes == 0 || per_image == 0 {
            return Err(DataError::Invalid("a data set needs at least one picture".to_owned()));
        }
        if !bytes.is_multiple_of(per_image) {
            return Err(DataError::Invalid(format!(
                "{bytes} bytes do not divide into pictures of {image_shape:?}"
            )));
        }
        let count = bytes / per_image;
        let most = u32::try_from(count).map_err(|_| {
            DataError::Invalid(format!("{count} pictures are more than a set may have"))
        })?;
        for (what, length) in [("labels", about.labels.len()), ("names", about.names.len())] {
            if length != 0 && length != count {
                return Err(DataError::Invalid(format!("{length} {what} for {count} pictures")));
            }
        }
        let (pixels, about) = (Arc::new(pixels), Arc::new(about));
        Ok(Self { pixels, image_shape, window: None, chosen: (0..most).collect(), about })
    }

    /// The number of pictures, at least 1.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// [C, H, W] of every picture, as it is trained on.
    pub fn image_shape(&self) -> [usize; 3] {
        let [channels, height, width] = self.image_shape;
        self.window.map_or([channels, height, width], |side| [channels, side, side])
    }

    /// The same pictures, out of which windows of `side`×`side` pixels are cut.
    pub(crate) fn with_window(self, side: usize) -> Self {
        Self { window: Some(side), ..self }
    }

    /// The names of the classes; none if the set has none.
    pub fn classes(&self) -> &[String] {
        &self.about.classes
    }

    /// The class of picture `i`, an index of [`classes`](Self::classes), if it has one.
    ///
    /// # Panics
    /// `i` outside the set.
    pub fn label(&self, i: usize) -> Option<u32> {
        self.about.labels.get(self.chosen[i] as usize).copied().flatten()
    }

    /// The name of picture `i`: its path in the source where it has one, else its number there.
    ///
    /// # Panics
    /// `i` outside the set.
    pub fn name(&self, i: usize) -> String {
        let place = self.chosen[i] as usize;
        self.about.names.get(place).cloned().unwrap_or_else(|| format!("{place:06}"))
    }

    /// The pixels of picture `i`, as it is kept: C·H·W bytes.
    ///
    /// # Panics
    /// `i` outside the set.
    pub fn image(&self, i: usize) -> &[u8] {
        let n: usize = self.image_shape.iter().product();
        let place = self.chosen[i] as usize;
        &self.pixels.bytes()[place * n..(place + 1) * n]
    }

    /// Picture `i` as it is trained on, with the corner of the window at (`top`, `left`), mirrored if `flip`: C·H·W numbers
    /// are written to `values`, black −1 and white 1.
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

    /// How far the corner of a window may lie from that of the picture, downwards and to the right.
    pub(crate) fn slack(&self) -> (usize, usize) {
        let ([_, height, width], [_, rows, columns]) = (self.image_shape, self.image_shape());
        (height - rows, width - columns)
    }

    /// The pictures with the given indices as (N, C, H, W) in f32, black −1 and white 1; their middles where windows are cut
    /// out of them.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// An index outside the set.
    pub fn images(&self, indices: &[usize], device: &Device) -> Result<Tensor, DataError> {
        let [c, h, w] = self.image_shape();
        let (down, right) = self.slack();
        let mut values = vec![0.0; indices.len() * c * h * w];
        for (&i, values) in indices.iter().zip(values.chunks_exact_mut(c * h * w)) {
            self.write_window(i, (down / 2, right / 2), false, values);
        }
        Ok(Tensor::from_vec(values, (indices.len(), c, h, w), device)?)
    }

    /// The pictures of the named classes.
    ///
    /// # Errors
    /// A name that is no class, with those there are; no picture left.
    pub fn of_classes(&self, names: &[String]) -> Result<Self, DataError> {
        let index = |name: &String| {
            let place = self.classes().iter().position(|class| class == name);
            place.map(|place| place as u32).ok_or_else(|| {
                let there = match self.classes() {
                    [] => "the set has no classes".to_owned(),
                    classes => format!("the classes are {}", classes.join(", ")),
                };
                DataError::Invalid(format!("there is no class {name:?}: {there}"))
            })
        };
        let wanted = names.iter().map(index).collect::<Result<Vec<_>, _>>()?;
        self.part(|i| self.label(i).is_some_and(|label| wanted.contains(&label)))
    }

    /// The pictures that have a class.
    ///
    /// # Errors
    /// No picture has one.
    pub fn labelled(&self) -> Result<Self, DataError> {
        let none = |_| {
            DataError::Invalid("none of the pictures has a class, by folders or labels".to_owned())
        };
        self.part(|i| self.label(i).is_some()).map_err(none)
    }

    /// `count` of the pictures, chosen by a hash of their names; all if there are no more.
    ///
    /// # Errors
    /// `count` of 0.
    pub fn limited(&self, count: usize) -> Result<Self, DataError> {
        if count == 0 {
            return Err(DataError::Invalid("no picture is left of the data set".to_owned()));
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|i| (self.name_hash(*i, b"limit"), *i));
        order.truncate(count);
        order.sort_unstable();
        let chosen = order.into_iter().map(|i| self.chosen[i]).collect();
        Ok(Self { chosen, ..self.clone() })
    }

    /// The set without about the share `validation` of it, and that part, chosen by a hash of their names: a picture stays
    /// on its side when others come or go.
    ///
    /// # Errors
    /// A share that leaves no pictures on one side.
    pub fn split(&self, validation: f64) -> Result<(Self, Self), DataError> {
        let held_back =
            |i| (self.name_hash(i, b"validation") as f64 / u64::MAX as f64) < validation;
        let none = |_| {
            let count = self.len();
            DataError::Invalid(format!(
                "a share of {validation} of {count} pictures leaves no pictures on one side"
            ))
        };
        Ok((self.part(|i| !held_back(i)).map_err(none)?, self.part(held_back).map_err(none)?))
    }

    fn part(&self, belongs: impl Fn(usize) -> bool) -> Result<Self, DataError> {
        let chosen: Arc<[u32]> =
            (0..self.len()).filter(|i| belongs(*i)).map(|i| self.chosen[i]).collect();
        if chosen.is_empty() {
            return Err(DataError::Invalid("no picture is left of the data set".to_owned()));
        }
        Ok(Self { chosen, ..self.clone() })
    }

    /// Independent of the hashes for other purposes.
    fn name_hash(&self, i: usize, purpose: &[u8]) -> u64 {
        let mut hash = StableHasher::default();
        hash.write(purpose);
        hash.write(self.name(i).as_bytes());
        hash.finish()
    }

    /// A checksum of the pictures and their classes, to notice that a run goes on with other data than it began with.
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
