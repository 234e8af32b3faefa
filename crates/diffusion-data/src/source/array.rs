//! Pictures in numpy arrays: npy files, and npz files with an optional array of labels.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use diffusion_picture::npy::{Header, NumberType};

use super::{Content, Record, Records, SourceInfo, numbered_name};
use crate::DataError;
use crate::dataset::classes::numbered_classes;
use crate::prepare::decode::{Lost, MAX_PIXELS, Raster};
pub(super) use diffusion_picture::npy::MAGIC as NPY_MAGIC;

/// The possible names of the pictures and the labels in an npz file. The first that exists is used.
const PICTURES: [&str; 6] = ["images", "x", "x_train", "data", "samples", "arr_0"];
const LABELS: [&str; 9] =
    ["labels", "y", "y_train", "label", "targets", "target", "classes", "class", "arr_1"];

/// How many pictures the thread reads in advance.
const READ_AHEAD: usize = 16;

/// An array of pictures in a file.
#[derive(Debug)]
pub(super) struct Arrays {
    path: PathBuf,
    /// The name of the array, if the file is an npz file.
    member: Option<String>,
    layout: Layout,
    scale: Scale,
    /// The smallest and the largest number, unless the numbers are bytes.
    range: Option<(f64, f64)>,
    labels: Option<Vec<u32>>,
}

/// The shape, memory order and number type of the pictures in an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    count: usize,
    height: usize,
    width: usize,
    channels: usize,
    /// The order of a picture's numbers: (C, H, W) if true, (H, W, C) if false.
    planar: bool,
    number_type: NumberType,
}

/// How numbers become bytes: `byte = number · factor + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    factor: f64,
    offset: f64,
}

impl Scale {
    const BYTES: Self = Self { factor: 1.0, offset: 0.0 };
    /// For \[0, 1\].
    const UNIT: Self = Self { factor: 255.0, offset: 0.0 };
    /// For \[−1, 1\].
    const SIGNED: Self = Self { factor: 127.5, offset: 127.5 };

    /// The numbers that become black and white.
    fn range(self) -> [f64; 2] {
        [0.0, 255.0].map(|byte| (byte - self.offset) / self.factor)
    }

    /// The scale for numbers from `min` to `max`: the first of \[0, 1\], \[−1, 1\] and \[0, 255\]
    /// that contains them.
    fn for_range(min: f64, max: f64) -> Result<Self, String> {
        match (min, max) {
            (min, max) if !min.is_finite() || !max.is_finite() => {
                Err("it contains numbers that are not finite".to_owned())
            }
            // Filters and networks may exceed the range a little.
            (min, max) if min >= -0.1 && max <= 1.1 => Ok(Self::UNIT),
            (min, max) if min >= -1.5 && max <= 1.5 => Ok(Self::SIGNED),
            (min, max) if min >= -1.0 && max <= 256.0 => Ok(Self::BYTES),
            _ => Err(format!(
                "its numbers go from {min} to {max}; expected [-1, 1], [0, 1] or [0, 255]"
            )),
        }
    }
}

impl Layout {
    fn new(header: &Header) -> Result<Self, String> {
        let channels = |n: usize| [1, 3, 4].contains(&n);
        let number_type = header.number_type;
        let layout = match header.shape[..] {
            [count, height, width] => {
                Self { count, height, width, channels: 1, planar: true, number_type }
            }
            // A shape such as (N, 3, H, 3) is ambiguous: bytes usually come from picture files,
            // floats from networks.
            [count, a, b, c] if channels(c) && (number_type == NumberType::U8 || !channels(a)) => {
                Self { count, height: a, width: b, channels: c, planar: false, number_type }
            }
            [count, a, b, c] if channels(a) => {
                Self { count, height: b, width: c, channels: a, planar: true, number_type }
            }
            _ => {
                return Err(format!(
                    "expected pictures of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 \
                     or 4 channels, got {:?}",
                    header.shape
                ));
            }
        };
        if layout.count == 0 || layout.height == 0 || layout.width == 0 {
            return Err(format!("an array of shape {:?} contains no pictures", header.shape));
        }
        if (layout.height as u64).saturating_mul(layout.width as u64) > MAX_PIXELS {
            return Err(format!(
                "pictures of {}×{} are too large; at most {MAX_PIXELS} pixels are allowed",
                layout.width, layout.height
            ));
        }
        Ok(layout)
    }

    fn numbers_per_picture(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Reads the numbers of the next picture.
    fn read(&self, input: &mut (impl Read + ?Sized)) -> Result<Vec<f64>, String> {
        let mut bytes = vec![0; self.numbers_per_picture() * self.number_type.bytes()];
        input.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        Ok(self.number_type.values(&bytes))
    }

    /// Converts the numbers of a picture to interleaved bytes.
    fn raster(&self, numbers: &[f64], scale: Scale) -> Raster {
        let byte =
            |value: f64| (value * scale.factor + scale.offset).round().clamp(0.0, 255.0) as u8;
        let area = self.height * self.width;
        let pixels = if self.planar {
            (0..area)
                .flat_map(|i| (0..self.channels).map(move |c| c * area + i))
                .map(|i| byte(numbers[i]))
                .collect()
        } else {
            numbers.iter().map(|value| byte(*value)).collect()
        };
        let form = match self.channels {
            1 => "grey",
            3 => "RGB",
            _ => "RGB with opacity",
        };
        let (width, height, channels) = (self.width, self.height, self.channels);
        Raster { width, height, channels, pixels, form, lost: Lost::default() }
    }
}

pub(super) fn open_npy(path: &Path) -> Result<SourceInfo<Arrays>, DataError> {
    let arrays = Arrays {
        path: path.to_owned(),
        member: None,
        layout: Layout {
            count: 0,
            height: 0,
            width: 0,
            channels: 0,
            planar: true,
            number_type: NumberType::U8,
        },
        scale: Scale::BYTES,
        range: None,
        labels: None,
    };
    arrays.complete(None)
}

/// Opens the arrays of an npz file; `None` if the file is not a zip archive or contains other files
/// than arrays.
pub(super) fn open_npz(path: &Path, head: &[u8]) -> Result<Option<SourceInfo<Arrays>>, DataError> {
    if !head.starts_with(b"PK") {
        return Ok(None);
    }
    let Ok(zip) = open_zip(path) else { return Ok(None) };
    // An unreadable name becomes empty, which is not the name of an array.
    let names: Vec<String> =
        zip.file_names().map(|name| name.map(Into::into).unwrap_or_default()).collect();
    if names.is_empty() || !names.iter().all(|name| name.strip_suffix(".npy").is_some()) {
        return Ok(None);
    }
    let find = |candidates: &[&str]| {
        candidates.iter().map(|name| format!("{name}.npy")).find(|name| names.contains(name))
    };
    let invalid = |problem: String| DataError::unusable(path, problem);
    let member = find(&PICTURES).or_else(|| (names.len() == 1).then(|| names[0].clone()));
    let member = member.ok_or_else(|| {
        invalid(format!(
            "one of its arrays must be called {}; found {}",
            PICTURES.join(", "),
            names.join(", ")
        ))
    })?;
    let labels = find(&LABELS)
        .map(|name| read_labels(path, &name).map_err(|e| invalid(format!("{name}: {e}"))));
    let arrays = Arrays {
        path: path.to_owned(),
        member: Some(member),
        layout: Layout {
            count: 0,
            height: 0,
            width: 0,
            channels: 0,
            planar: true,
            number_type: NumberType::U8,
        },
        scale: Scale::BYTES,
        range: None,
        labels: None,
    };
    arrays.complete(labels.transpose()?).map(Some)
}

fn open_zip(path: &Path) -> Result<zip::ZipArchive<BufReader<File>>, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    zip::ZipArchive::new(BufReader::new(file)).map_err(|e| e.to_string())
}

fn read_labels(path: &Path, member: &str) -> Result<Vec<u32>, String> {
    /// The maximum number of labels.
    const MAX_LABELS: usize = 1 << 28;
    let mut zip = open_zip(path)?;
    let mut input = zip.by_name(member).map_err(|e| e.to_string())?;
    let header = Header::read(&mut input)?;
    let count = match header.shape[..] {
        [count] | [count, 1] if count <= MAX_LABELS => count,
        _ => {
            return Err(format!(
                "labels must have the shape (N) or (N, 1), got {:?}",
                header.shape
            ));
        }
    };
    let mut bytes = Vec::new();
    input
        .take((count * header.number_type.bytes()) as u64)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    if bytes.len() != count * header.number_type.bytes() {
        return Err("it ends too early".to_owned());
    }
    let values = header.number_type.values(&bytes).into_iter();
    let label = |value: f64| {
        if value.fract() == 0.0 && (0.0..65_536.0).contains(&value) {
            Ok(value as u32)
        } else {
            Err(format!("{value} is not a label; expected integers from 0 to 65535"))
        }
    };
    values.map(label).collect()
}

impl Arrays {
    /// Reads the header. Of numbers other than bytes, it also reads all once to find their range.
    fn complete(mut self, labels: Option<Vec<u32>>) -> Result<SourceInfo<Self>, DataError> {
        let path = self.path.clone();
        let invalid = |problem: String| {
            DataError::unusable(&path, format!("not an array of pictures: {problem}"))
        };
        self.with_input(|input| {
            let header = Header::read(input)?;
            let layout = Layout::new(&header)?;
            Ok(layout)
        })
        .map(|layout| self.layout = layout)
        .map_err(&invalid)?;
        if self.member.is_none() {
            // Finds a wrong shape now and not after the last picture.
            let length = std::fs::metadata(&self.path).map_err(DataError::io(&self.path))?.len();
            self.check_length(length).map_err(&invalid)?;
        }
        if self.layout.number_type != NumberType::U8 {
            let layout = self.layout;
            (self.scale, self.range) = self
                .with_input(|input| {
                    Header::read(input)?;
                    let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
                    for _ in 0..layout.count {
                        for value in layout.read(input)? {
                            // Keeps NaN, which `f64::min` and `f64::max` would drop.
                            min = if value < min || value.is_nan() { value } else { min };
                            max = if value > max || value.is_nan() { value } else { max };
                        }
                    }
                    Ok((Scale::for_range(min, max)?, Some((min, max))))
                })
                .map_err(&invalid)?;
        }
        let count = self.layout.count;
        if let Some(labels) = &labels
            && labels.len() != count
        {
            return Err(invalid(format!("{} labels for {count} pictures", labels.len())));
        }
        let classes = numbered_classes(labels.as_ref().and_then(|labels| labels.iter().max()));
        self.labels = labels;
        Ok(SourceInfo { kind: self, classes, count })
    }

    /// In words, with the range that its numbers are taken to have.
    pub(super) fn description(&self) -> String {
        match self.range {
            Some(_) => {
                let [black, white] = self.scale.range();
                format!("a numpy array of numbers in [{black}, {white}]")
            }
            None => "a numpy array".to_owned(),
        }
    }

    /// What a user should know: the range, if the numbers leave a doubt, and unused labels.
    pub(super) fn notes(&self) -> Vec<String> {
        self.range_note().into_iter().chain(self.labels_beside()).collect()
    }

    fn range_note(&self) -> Option<String> {
        let (min, max) = self.range?;
        let [black, white] = self.scale.range();
        let outside = min < black || max > white;
        let narrow = match self.scale {
            Scale::SIGNED => min > -0.5 || max < 0.5,
            Scale::BYTES => max <= 4.0,
            _ => false,
        };
        let note = || {
            format!(
                "the numbers of the array go from {min} to {max}; {black} is taken for black and \
                 {white} for white"
            )
        };
        (outside || narrow).then(note)
    }

    /// A file of labels beside an npy file, which has no place for them.
    fn labels_beside(&self) -> Option<String> {
        let stem = self.member.is_none().then(|| self.path.file_stem())??.to_string_lossy();
        let names = [
            format!("{stem}_labels.npy"),
            stem.replace("images", "labels") + ".npy",
            stem.replace("data", "labels") + ".npy",
            "labels.npy".to_owned(),
        ];
        let own = self.path.file_name()?.to_string_lossy();
        names.into_iter().find(|name| *name != own && self.path.with_file_name(name).is_file()).map(
            |name| {
                format!(
                    "{name} is not used; save both arrays in one npz file, as images and labels"
                )
            },
        )
    }

    fn check_length(&self, length: u64) -> Result<(), String> {
        self.with_input(|input| {
            let header = Header::read(input)?;
            let factors =
                [self.layout.count, self.layout.numbers_per_picture(), header.number_type.bytes()];
            let expected =
                factors.iter().try_fold(1u64, |product, n| product.checked_mul(*n as u64));
            let actual = length.saturating_sub(header.bytes);
            if expected == Some(actual) {
                Ok(())
            } else {
                Err(format!(
                    "its shape {:?} does not match its {actual} bytes of numbers",
                    header.shape
                ))
            }
        })
    }

    fn with_input<T>(
        &self,
        read: impl FnOnce(&mut dyn Read) -> Result<T, String>,
    ) -> Result<T, String> {
        with_input(&self.path, self.member.as_deref(), read)
    }

    pub(super) fn records(&self) -> Records<'_> {
        let failed = |problem: String| DataError::unusable(&self.path, problem);
        // An iterator cannot own both the archive and the entry that borrows from it, so a thread
        // reads ahead.
        let (sender, receiver) = std::sync::mpsc::sync_channel(READ_AHEAD);
        let (path, member, layout) = (self.path.clone(), self.member.clone(), self.layout);
        std::thread::spawn(move || {
            let outcome = with_input(&path, member.as_deref(), |input| {
                Header::read(input)?;
                for _ in 0..layout.count {
                    if sender.send(layout.read(input)).is_err() {
                        break;
                    }
                }
                Ok(())
            });
            if let Err(problem) = outcome {
                let _ = sender.send(Err(problem));
            }
        });
        Box::new((0..self.layout.count).map(move |i| {
            let numbers = receiver
                .recv()
                .unwrap_or_else(|_| Err("it ends too early".to_owned()))
                .map_err(failed)?;
            let content = Ok(Content::Raw(self.layout.raster(&numbers, self.scale)));
            Ok(Record {
                name: numbered_name(i),
                label: self.labels.as_ref().map(|labels| labels[i]),
                content,
            })
        }))
    }
}

/// Calls `read` with an array file from its start; `member` is the array's name in an npz file.
fn with_input<T>(
    path: &Path,
    member: Option<&str>,
    read: impl FnOnce(&mut dyn Read) -> Result<T, String>,
) -> Result<T, String> {
    match member {
        Some(member) => {
            let mut zip = open_zip(path)?;
            let mut entry = zip.by_name(member).map_err(|e| e.to_string())?;
            read(&mut entry)
        }
        None => read(&mut BufReader::new(File::open(path).map_err(|e| e.to_string())?)),
    }
}
