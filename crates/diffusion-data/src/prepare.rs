//! From a source to a data set: every picture decoded, turned, brought to one size and checked before training begins.
//!
//! - `decode`: 8-bit pixels of any picture file, turned as its EXIF data say.
//! - `resize`: pixels of one size, laid over a background.
//! - `cache`: the result in a file that is mapped into memory.
//! - `report`: what was found, good and bad.
//! - `single`: one picture file as the image of a model, without a data set.

pub(crate) mod cache;
pub(crate) mod decode;
pub(crate) mod report;
pub(crate) mod resize;
pub(crate) mod single;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

use diffusion_files::FileError;
use rayon::prelude::*;

use crate::config::{Channels, PictureConfig};
use crate::dataset::About;
use crate::prepare::cache::{Cache, Sink};
use crate::prepare::report::{Damaged, Report};
use crate::prepare::resize::{Planes, Target};
use crate::source::{Content, Record};
use crate::{DataError, ImageDataset, Source};

/// Pictures of one size with no side longer than this stay as they are if no size is asked for.
const SMALL: usize = 64;
/// The size of other pictures if none is asked for.
const DEFAULT_SIZE: usize = 32;
/// Pictures decoded at once, which bounds the memory together with …
const CHUNK: usize = 256;
/// … the bytes of their files.
const CHUNK_BYTES: usize = 1 << 26;
/// Raw pixels up to this many bytes are kept in memory, not in the cache: reading them is as fast.
const RAW_IN_MEMORY: usize = 1 << 29;
/// So many damaged pictures are named in an error.
const SHOWN: usize = 5;

/// A data set, and what was found on the way.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// All usable pictures, in the order of the source.
    pub dataset: ImageDataset,
    /// What the source holds.
    pub report: Report,
    /// Whether the pictures were prepared earlier and lay in the cache.
    pub from_cache: bool,
    /// Why the cache could not be used, if it was to be.
    pub cache_problem: Option<String>,
}

/// What [`prepare`] is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareProgress {
    /// Another process prepares the same pictures; its result will be used.
    Waiting,
    /// So many pictures are done, of so many.
    Done(usize, usize),
}

/// Prepares the pictures of `source` for images of `size`×`size` pixels: decodes them in parallel, a few hundred at a time,
/// turns, scales and crops them, and keeps the result in a file in the folder `cache`, where the next call finds it; without
/// `cache`, in memory. Damaged pictures are left out and reported.
///
/// Without `size`, pictures that all have one size stay as they are if they are raw pixels or have at most 64×64 of them;
/// others become 32×32. A picture too small to be enlarged (less than an eighth of the size) counts as damaged.
///
/// # Errors
/// More damaged pictures than `config.max_bad`, or nothing else; a source that breaks off; `progress` asking to stop. A
/// cache that cannot be used is no error: the pictures stay in memory then.
pub fn prepare(
    source: &Source,
    size: Option<usize>,
    config: &PictureConfig,
    cache: Option<&Path>,
    progress: &mut dyn FnMut(PrepareProgress) -> ControlFlow<()>,
) -> Result<Prepared, DataError> {
    let (target, window) = target(source, size, config)?;
    let raw = source.is_raw()
        && source.count().saturating_mul(3 * target.width * target.height) < RAW_IN_MEMORY;
    let cache =
        cache.filter(|_| !raw).map(|folder| Cache::new(folder, source, &target, config.channels));
    let mut cache_problem = None;
    let (dataset, report, from_cache) = match &cache {
        Some(cache) => match through_cache(cache, source, &target, config, progress) {
            Err(DataError::File(FileError::Io { path, source: error })) if cache.is_mine(&path) => {
                cache_problem = Some(format!("{}: {error}", path.display()));
                in_memory(source, &target, config, progress)?
            }
            result => result?,
        },
        None => in_memory(source, &target, config, progress)?,
    };
    check(source, &report.damaged, config.max_bad)?;
    let dataset = match window {
        Some(side) => dataset.with_window(side),
        None => dataset,
    };
    Ok(Prepared { dataset, report, from_cache, cache_problem })
}

fn in_memory(
    source: &Source,
    target: &Target,
    config: &PictureConfig,
    progress: &mut dyn FnMut(PrepareProgress) -> ControlFlow<()>,
) -> Result<(ImageDataset, Report, bool), DataError> {
    let mut sink = Sink::memory();
    let (about, report, shape) = fill(&mut sink, source, target, config, progress)?;
    Ok((ImageDataset::assemble(sink.into_memory(), about, shape)?, report, false))
}

fn through_cache(
    cache: &Cache,
    source: &Source,
    target: &Target,
    config: &PictureConfig,
    progress: &mut dyn FnMut(PrepareProgress) -> ControlFlow<()>,
) -> Result<(ImageDataset, Report, bool), DataError> {
    if let Some((dataset, report)) = cache.open() {
        return Ok((dataset, report, true));
    }
    let _lock = cache.lock(&mut || cancelled(progress(PrepareProgress::Waiting)))?;
    // Whoever held the lock may have left what is wanted.
    if let Some((dataset, report)) = cache.open() {
        return Ok((dataset, report, true));
    }
    let mut sink = cache.sink()?;
    let (about, report, shape) = fill(&mut sink, source, target, config, progress)?;
    let dataset = cache.keep(sink, about, &report, shape)?;
    Ok((dataset, report, false))
}

/// The shape that the pictures are kept in, and the window that training cuts out of them.
fn target(
    source: &Source,
    size: Option<usize>,
    config: &PictureConfig,
) -> Result<(Target, Option<usize>), DataError> {
    /// Larger images than any network here could be trained on.
    const MOST: usize = 4096;
    let most = if source.is_raw() { usize::MAX } else { SMALL };
    let natural = if size.is_none() { source.common_size(most)? } else { None };
    let (width, height) =
        natural.unwrap_or((size.unwrap_or(DEFAULT_SIZE), size.unwrap_or(DEFAULT_SIZE)));
    if width.min(height) == 0 || width.max(height) > MOST {
        return Err(DataError::Invalid(format!(
            "images of {width}×{height} pixels cannot be trained on; choose a size from 1 to {MOST}"
        )));
    }
    let window = config.random_crop.then_some(width.min(height));
    let (width, height) =
        window.map_or((width, height), |side| (config.kept_size(side), config.kept_size(side)));
    Ok((Target { width, height, fit: config.fit, background: config.background }, window))
}

fn cancelled(flow: ControlFlow<()>) -> Result<(), DataError> {
    if flow.is_break() { Err(DataError::Cancelled) } else { Ok(()) }
}

/// Decodes all of `source` into `sink`; returns what is known of the usable pictures, what was found, and their [C, H, W].
fn fill(
    sink: &mut Sink,
    source: &Source,
    target: &Target,
    config: &PictureConfig,
    progress: &mut dyn FnMut(PrepareProgress) -> ControlFlow<()>,
) -> Result<(About, Report, [usize; 3]), DataError> {
    let mut about = About { classes: source.classes().to_vec(), ..About::default() };
    let mut report = Report::default();
    let mut sizes = BTreeMap::new();
    let area = target.width * target.height;
    // Without an order otherwise, the set is grey until the first picture with colour.
    let mut channels = if config.channels == Channels::Rgb { 3 } else { 1 };
    let mut records = source.records()?;
    let mut taken = HashMap::new();
    let mut done = 0;
    loop {
        let chunk = next_chunk(&mut records)?;
        if chunk.is_empty() {
            break;
        }
        done += chunk.len();
        let classes = about.classes.len();
        let results: Vec<_> =
            chunk.into_par_iter().map(|record| image(record, target, classes)).collect();
        let mut pixels = Vec::new();
        for result in results {
            let Image { name, label, size, form, planes } = match result {
                Ok(image) => image,
                Err(damaged) => {
                    report.damaged.push(damaged);
                    continue;
                }
            };
            if planes.coloured && config.channels == Channels::Auto && channels == 1 {
                sink.append(&pixels)?;
                pixels.clear();
                sink.widen(area)?;
                channels = 3;
            }
            match (planes.coloured, channels) {
                (true, 1) => pixels.extend(resize::luma(&planes.pixels)),
                (false, 3) => pixels.extend(planes.pixels.repeat(3)),
                _ => pixels.extend(planes.pixels),
            }
            *sizes.entry(size).or_insert(0) += 1;
            *report.forms.entry(form.to_owned()).or_insert(0) += 1;
            about.names.push(unlike(name, &mut taken));
            about.labels.push(label);
        }
        sink.append(&pixels)?;
        check(source, &report.damaged, config.max_bad)?;
        cancelled(progress(PrepareProgress::Done(done, source.count().max(done))))?;
    }
    report.sizes =
        sizes.into_iter().map(|((width, height), count)| (width, height, count)).collect();
    if about.names.is_empty() {
        return Err(nothing_usable(source, &report.damaged));
    }
    Ok((about, report, [channels, target.height, target.width]))
}

/// The name, or, if it was taken, the name with a number: what is chosen by names must tell pictures apart.
fn unlike(name: String, taken: &mut HashMap<String, usize>) -> String {
    let times = taken.entry(name.clone()).or_insert(0);
    *times += 1;
    if *times == 1 { name } else { format!("{name} ({times})") }
}

fn next_chunk(
    records: &mut dyn Iterator<Item = Result<Record, DataError>>,
) -> Result<Vec<Record>, DataError> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while chunk.len() < CHUNK && bytes < CHUNK_BYTES {
        let Some(record) = records.next().transpose()? else { break };
        bytes += match &record.content {
            Ok(Content::Encoded(encoded)) => encoded.len(),
            Ok(Content::Raw(raster)) => raster.pixels.len(),
            _ => 0,
        };
        chunk.push(record);
    }
    Ok(chunk)
}

/// A picture that is ready.
struct Image {
    name: String,
    label: Option<u32>,
    size: (usize, usize),
    form: &'static str,
    planes: Planes,
}

fn image(record: Record, target: &Target, classes: usize) -> Result<Image, Damaged> {
    let Record { name, label, content } = record;
    if let Some(label) = label.filter(|label| *label as usize >= classes) {
        return Err(Damaged {
            name,
            reason: format!("its class is {label}, but there are only {classes}"),
        });
    }
    let ready = content.and_then(Content::decode).and_then(|raster| {
        let (size, form) = ((raster.width, raster.height), raster.form);
        Ok((size, form, target.apply(raster)?))
    });
    match ready {
        Ok((size, form, planes)) => Ok(Image { name, label, size, form, planes }),
        Err(reason) => Err(Damaged { name, reason }),
    }
}

pub(crate) fn nothing_usable(source: &Source, damaged: &[Damaged]) -> DataError {
    let problem = match damaged.len() {
        0 => "it holds no pictures".to_owned(),
        n => format!("none of its {n} pictures can be used"),
    };
    damage(source, problem, damaged)
}

pub(crate) fn check(source: &Source, damaged: &[Damaged], max_bad: usize) -> Result<(), DataError> {
    if damaged.len() <= max_bad {
        return Ok(());
    }
    let problem =
        format!("more than {max_bad} pictures cannot be used; a larger max_bad leaves them out");
    Err(damage(source, problem, damaged))
}

fn damage(source: &Source, problem: String, damaged: &[Damaged]) -> DataError {
    let mut reasons: Vec<String> = damaged.iter().take(SHOWN).map(Damaged::to_string).collect();
    if damaged.len() > SHOWN {
        reasons.push("…".to_owned());
    }
    DataError::Damaged { path: source.path().to_owned(), problem, reasons }
}
