//! Arrays of numpy's as sets of pictures: npy, and npz with a second array of labels.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use diffusion_picture::npy::{Header, Number};

use super::{Content, Found, Record, Records, numbered};
use crate::DataError;
use crate::dataset::numbered_classes;
use crate::prepare::decode::{MAX_PIXELS, Raster};
pub(super) use diffusion_picture::npy::MAGIC as NPY_MAGIC;

/// The names under which an npz file may keep its pictures and its labels; the first that is there is taken.
const PICTURES: [&str; 6] = ["images", "x", "x_train", "data", "samples", "arr_0"];
const LABELS: [&str; 5] = ["labels", "y", "y_train", "label", "arr_1"];

/// Pictures that a thread may have read before they are asked for.
const READ_AHEAD: usize = 16;

/// An array of pictures in a file.
#[derive(Debug)]
pub(super) struct Arrays {
    path: PathBuf,
    /// The name of the array in an npz file.
    member: Option<String>,
    layout: Layout,
    scale: Scale,
    labels: Option<Vec<u32>>,
}

/// Where the channels of a picture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    count: usize,
    height: usize,
    width: usize,
    channels: usize,
    /// A picture is channels · height · width numbers, not height · width · channels.
    planar: bool,
    number: Number,
}

/// How numbers become bytes: `byte = number · factor + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    factor: f64,
    offset: f64,
}

impl Scale {
    const BYTES: Self = Self { factor: 1.0, offset: 0.0 };

    /// By the range of all numbers: [0, 1], [−1, 1] or [0, 255], the first that holds them all.
    fn for_range(least: f64, most: f64) -> Result<Self, String> {
        match (least, most) {
            (least, most) if !least.is_finite() || !most.is_finite() => {
                Err("it holds numbers that are not finite".to_owned())
            }
            // What a filter or a network has left may go a little beyond.
            (least, most) if least >= -0.1 && most <= 1.1 => {
                Ok(Self { factor: 255.0, offset: 0.0 })
            }
            (least, most) if least >= -1.5 && most <= 1.5 => {
                Ok(Self { factor: 127.5, offset: 127.5 })
            }
            (least, most) if least >= -1.0 && most <= 256.0 => Ok(Self::BYTES),
            _ => Err(format!(
                "its numbers go from {least} to {most}; expected [-1, 1], [0, 1] or [0, 255]"
            )),
        }
    }
}

impl Layout {
    fn new(header: &Header) -> Result<Self, String> {
        let channels = |n: usize| [1, 3, 4].contains(&n);
        let number = header.number;
        let layout = match header.shape[..] {
            [count, height, width] => {
                Self { count, height, width, channels: 1, planar: true, number }
            }
            // Both may be meant by (N, 3, H, 3): bytes usually come from picture files, floats from networks.
            [count, a, b, c] if channels(c) && (number == Number::U8 || !channels(a)) => {
                Self { count, height: a, width: b, channels: c, planar: false, number }
            }
            [count, a, b, c] if channels(a) => {
                Self { count, height: b, width: c, channels: a, planar: true, number }
            }
            _ => {
                return Err(format!(
                    "pictures (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels are wanted, not {:?}",
                    header.shape
                ));
            }
        };
        if layout.count == 0 || layout.height == 0 || layout.width == 0 {
            return Err(format!("an array of shape {:?} holds no pictures", header.shape));
        }
        if (layout.height as u64).saturating_mul(layout.width as u64) > MAX_PIXELS {
            return Err(format!("pictures of {}×{} are too large", layout.width, layout.height));
        }
        Ok(layout)
    }

    fn numbers(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// The numbers of the next picture.
    fn read(&self, input: &mut (impl Read + ?Sized)) -> Result<Vec<f64>, String> {
        let mut bytes = vec![0; self.numbers() * self.number.bytes()];
        input.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        Ok(self.number.values(&bytes))
    }

    /// Interleaved bytes from the numbers of a picture.
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
        Raster { width: self.width, height: self.height, channels: self.channels, pixels, form }
    }
}

pub(super) fn open_npy(path: &Path) -> Result<Found<Arrays>, DataError> {
    let arrays = Arrays {
        path: path.to_owned(),
        member: None,
        layout: Layout {
            count: 0,
            height: 0,
            width: 0,
            channels: 0,
            planar: true,
            number: Number::U8,
        },
        scale: Scale::BYTES,
        labels: None,
    };
    arrays.complete(None)
}

/// The arrays of an npz file; none if the file is no zip archive or holds other things than arrays.
pub(super) fn open_npz(path: &Path, head: &[u8]) -> Result<Option<Found<Arrays>>, DataError> {
    if !head.starts_with(b"PK") {
        return Ok(None);
    }
    let Ok(zip) = open_zip(path) else { return Ok(None) };
    // A name that cannot be read is not that of an array.
    let names: Vec<String> =
        zip.file_names().map(|name| name.map(Into::into).unwrap_or_default()).collect();
    if names.is_empty() || !names.iter().all(|name| name.strip_suffix(".npy").is_some()) {
        return Ok(None);
    }
    let find = |wanted: &[&str]| {
        wanted.iter().map(|name| format!("{name}.npy")).find(|name| names.contains(name))
    };
    let invalid = |problem: String| DataError::unusable(path, problem);
    let member = find(&PICTURES).or_else(|| (names.len() == 1).then(|| names[0].clone()));
    let member = member.ok_or_else(|| {
        invalid(format!(
            "one of its arrays must be called {}; there are {}",
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
            number: Number::U8,
        },
        scale: Scale::BYTES,
        labels: None,
    };
    arrays.complete(labels.transpose()?).map(Some)
}

fn open_zip(path: &Path) -> Result<zip::ZipArchive<BufReader<File>>, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    zip::ZipArchive::new(BufReader::new(file)).map_err(|e| e.to_string())
}

fn read_labels(path: &Path, member: &str) -> Result<Vec<u32>, String> {
    /// More labels than any set of pictures has.
    const MOST: usize = 1 << 28;
    let mut zip = open_zip(path)?;
    let mut input = zip.by_name(member).map_err(|e| e.to_string())?;
    let header = Header::read(&mut input)?;
    let count = match header.shape[..] {
        [count] | [count, 1] if count <= MOST => count,
        _ => return Err(format!("labels are a list, not an array of shape {:?}", header.shape)),
    };
    let mut bytes = Vec::new();
    input
        .take((count * header.number.bytes()) as u64)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    if bytes.len() != count * header.number.bytes() {
        return Err("it ends early".to_owned());
    }
    let values = header.number.values(&bytes).into_iter();
    let label = |value: f64| {
        if value.fract() == 0.0 && (0.0..65_536.0).contains(&value) {
            Ok(value as u32)
        } else {
            Err(format!("{value} is no label; expected whole numbers from 0 to 65535"))
        }
    };
    values.map(label).collect()
}

impl Arrays {
    /// Reads the header, and, of floats, everything once for its range.
    fn complete(mut self, labels: Option<Vec<u32>>) -> Result<Found<Self>, DataError> {
        let path = self.path.clone();
        let invalid = |problem: String| {
            DataError::unusable(&path, format!("no array of pictures: {problem}"))
        };
        self.with_input(|input| {
            let header = Header::read(input)?;
            let layout = Layout::new(&header)?;
            Ok(layout)
        })
        .map(|layout| self.layout = layout)
        .map_err(&invalid)?;
        if self.member.is_none() {
            // So that a wrong shape is noticed now and not behind the last picture.
            let length = std::fs::metadata(&self.path).map_err(DataError::io(&self.path))?.len();
            self.check_length(length).map_err(&invalid)?;
        }
        if self.layout.number != Number::U8 {
            let layout = self.layout;
            self.scale = self
                .with_input(|input| {
                    Header::read(input)?;
                    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
                    for _ in 0..layout.count {
                        for value in layout.read(input)? {
                            // A NaN stays, where min and max would drop it.
                            least = if value < least || value.is_nan() { value } else { least };
                            most = if value > most || value.is_nan() { value } else { most };
                        }
                    }
                    Scale::for_range(least, most)
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
        Ok(Found { kind: self, classes, count })
    }

    fn check_length(&self, length: u64) -> Result<(), String> {
        self.with_input(|input| {
            let header = Header::read(input)?;
            let wanted = [self.layout.count, self.layout.numbers(), header.number.bytes()];
            let wanted = wanted.iter().try_fold(1u64, |product, n| product.checked_mul(*n as u64));
            let there = length.saturating_sub(header.bytes);
            if wanted == Some(there) {
                Ok(())
            } else {
                Err(format!(
                    "its shape {:?} does not belong to the {there} bytes that follow",
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
        // An entry of an archive borrows it, which an iterator cannot hold beside it: a thread reads ahead.
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
                .unwrap_or_else(|_| Err("it ends early".to_owned()))
                .map_err(failed)?;
            let content = Ok(Content::Raw(self.layout.raster(&numbers, self.scale)));
            Ok(Record {
                name: numbered(i),
                label: self.labels.as_ref().map(|labels| labels[i]),
                content,
            })
        }))
    }
}

/// Calls with the array from its header on; `member` is its name in an npz file.
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
