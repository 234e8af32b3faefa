//! Prepares a source as a data set before training: decodes, rotates, scales and checks all
//! pictures.
//!
//! - `decode`: decodes a picture file to 8-bit pixels and applies its EXIF rotation.
//! - `resize`: scales pictures to one size and fills transparent areas with the background.
//! - `cache`: stores the result in a memory-mapped file.
//! - `profile`: colour profiles and animations.
//! - `report`: sizes and formats of the pictures, and the damaged ones.
//! - `single`: reads one picture file as an image tensor, without a data set.

pub(crate) mod cache;
pub(crate) mod decode;
pub(crate) mod profile;
pub(crate) mod report;
pub(crate) mod resize;
pub(crate) mod single;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use diffusion_files::FileError;
use rayon::prelude::*;

use crate::config::{Channels, PictureConfig};
use crate::dataset::Metadata;
use crate::prepare::cache::{Cache, Sink};
use crate::prepare::decode::Lost;
use crate::prepare::report::{DamagedPicture, Report};
use crate::prepare::resize::{Planes, Target};
use crate::source::{Content, Record, SizeSurvey};
use crate::{DataError, ImageDataset, Source};

/// Without a requested size, pictures of one common size keep it if no side is longer than this.
const MAX_NATURAL_SIZE: usize = 64;
/// The share of the pictures that must have one size for it to be the size of the set.
const NATURAL_SHARE: f64 = 0.95;
/// The size of all other pictures without a requested size.
const DEFAULT_SIZE: usize = 32;
/// The maximum number of pictures decoded at once. Together with `CHUNK_BYTES`, it bounds the
/// memory.
const CHUNK: usize = 256;
/// The maximum size in bytes of the files decoded at once.
const CHUNK_BYTES: usize = 1 << 26;
/// Raw pixels up to this many bytes stay in memory without a cache, since reading them is as fast.
const RAW_IN_MEMORY: usize = 1 << 29;
/// How many damaged pictures an error names.
const MAX_NAMED: usize = 5;

/// The result of [`prepare`].
#[derive(Clone, Debug)]
pub struct PreparedDataset {
    /// All usable pictures, in the order of the source.
    pub dataset: ImageDataset,
    /// Sizes and formats of the pictures, and the damaged ones.
    pub report: Report,
    /// Whether the pictures came from the cache.
    pub from_cache: bool,
    /// Why the cache could not be used, if it was requested.
    pub cache_problem: Option<String>,
}

/// The progress of [`prepare`] or [`pack`](crate::pack()).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareProgress {
    /// Waiting for another process that prepares the same pictures; its result will be used.
    Waiting,
    /// The number of processed pictures, and the total.
    Done(usize, usize),
}

/// Prepares the pictures of `source` as images of `size`×`size` pixels: decodes them in parallel, a
/// few hundred at a time, and rotates, scales and crops them. The result is stored in a file in the
/// folder `cache`, where the next call finds it; without `cache`, in memory. Damaged pictures are
/// left out and reported.
///
/// Without `size`, pictures keep their size if at least 95 % of them share it, and they are raw
/// pixels or at most 64×64; all others become 32×32. A picture counts as damaged if its shorter
/// side is less than an eighth of the required size.
///
/// # Errors
/// If more than `config.max_bad` pictures are damaged, or none is usable. If a side of the images
/// would not be in 1–4096 pixels. If the source cannot be read. If `progress` asks to stop. A cache
/// that cannot be used is not an error: the pictures then stay in memory.
pub fn prepare(
    source: &Source,
    size: Option<usize>,
    config: &PictureConfig,
    cache: Option<&Path>,
    progress: &mut dyn FnMut(PrepareProgress) -> ControlFlow<()>,
) -> Result<PreparedDataset, DataError> {
    let (target, window) = target(source, size, config)?;
    let raw = source.is_raw()
        && source.count().saturating_mul(3 * target.width * target.height) < RAW_IN_MEMORY;
    let cache =
        cache.filter(|_| !raw).map(|folder| Cache::new(folder, source, &target, config.channels));
    let mut cache_problem = None;
    let (dataset, report, from_cache) = match &cache {
        Some(cache) => match through_cache(cache, source, &target, config, progress) {
            Err(DataError::File(FileError::Io { path, source: error }))
                if cache.contains(&path) =>
            {
                cache_problem = Some(format!("{}: {error}", path.display()));
                in_memory(source, &target, config, progress)?
            }
            result => result?,
        },
        None => in_memory(source, &target, config, progress)?,
    };
    check_damaged_count(source, &report.damaged, config.max_bad)?;
    let dataset = match window {
        Some(side) => dataset.with_window(side),
        None => dataset,
    };
    Ok(PreparedDataset { dataset, report, from_cache, cache_problem })
}

fn in_memory(
    source: &Source,
    target: &Target,
    config: &PictureConfig,
    progress: &mut dyn FnMut(PrepareProgress) -> ControlFlow<()>,
) -> Result<(ImageDataset, Report, bool), DataError> {
    let mut sink = Sink::memory();
    let (metadata, report, shape) = fill(&mut sink, source, target, config, progress)?;
    Ok((ImageDataset::assemble(sink.into_memory(), metadata, shape)?, report, false))
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
    // The process that held the lock may have prepared these pictures.
    if let Some((dataset, report)) = cache.open() {
        return Ok((dataset, report, true));
    }
    let mut sink = cache.sink()?;
    let (metadata, report, shape) = fill(&mut sink, source, target, config, progress)?;
    let dataset = cache.finish(sink, metadata, &report, shape)?;
    Ok((dataset, report, false))
}

/// The shape of the stored pictures, and the side of the windows that training cuts out of them.
fn target(
    source: &Source,
    size: Option<usize>,
    config: &PictureConfig,
) -> Result<(Target, Option<usize>), DataError> {
    /// The networks of this project cannot be trained on larger images.
    const MAX_SIZE: usize = 4096;
    let max_natural = if source.is_raw() { usize::MAX } else { MAX_NATURAL_SIZE };
    let natural = if size.is_none() { natural_size(source, max_natural)? } else { None };
    let (width, height) =
        natural.unwrap_or((size.unwrap_or(DEFAULT_SIZE), size.unwrap_or(DEFAULT_SIZE)));
    if width.min(height) == 0 || width.max(height) > MAX_SIZE {
        return Err(DataError::Invalid(format!(
            "images of {width}×{height} pixels cannot be trained on; choose a size from 1 to \
             {MAX_SIZE}"
        )));
    }
    let window = config.random_crop.then_some(width.min(height));
    let (width, height) =
        window.map_or((width, height), |side| (config.stored_size(side), config.stored_size(side)));
    Ok((Target { width, height, fit: config.fit, background: config.background }, window))
}

/// The width and height that nearly all pictures share, if no side is longer than `most`.
fn natural_size(source: &Source, most: usize) -> Result<Option<(usize, usize)>, DataError> {
    let survey = source.sizes()?;
    let is_natural =
        |size: &(usize, usize)| survey.share() >= NATURAL_SHARE && size.0.max(size.1) <= most;
    Ok(survey.most_frequent().filter(is_natural))
}

fn cancelled(flow: ControlFlow<()>) -> Result<(), DataError> {
    if flow.is_break() { Err(DataError::Cancelled) } else { Ok(()) }
}

/// Decodes all pictures of `source` into `sink`. Returns the metadata of the usable pictures, the
/// report, and the shape [C, H, W].
fn fill(
    sink: &mut Sink,
    source: &Source,
    target: &Target,
    config: &PictureConfig,
    progress: &mut dyn FnMut(PrepareProgress) -> ControlFlow<()>,
) -> Result<(Metadata, Report, [usize; 3]), DataError> {
    let mut metadata = Metadata { classes: source.classes().to_vec(), ..Metadata::default() };
    let mut report = Report::default();
    let mut sizes = SizeSurvey::default();
    let area = target.width * target.height;
    // Unless RGB is configured, the set is grey until the first picture with colour.
    let mut channels = if config.channels == Channels::Rgb { 3 } else { 1 };
    let mut records = source.records()?;
    let mut used_names = HashMap::new();
    let mut done = 0;
    loop {
        let chunk = next_chunk(&mut records)?;
        if chunk.is_empty() {
            break;
        }
        done += chunk.len();
        let classes = metadata.classes.len();
        let results: Vec<_> =
            chunk.into_par_iter().map(|record| prepare_record(record, target, classes)).collect();
        let mut pixels = Vec::new();
        for result in results {
            let PreparedPicture { name, label, size, form, lost, planes } = match result {
                Ok(picture) => picture,
                Err(damaged) => {
                    report.damaged.push(damaged);
                    continue;
                }
            };
            let (low, high) = report.byte_range.unwrap_or((u8::MAX, u8::MIN));
            let range = planes
                .pixels
                .iter()
                .fold((low, high), |(low, high), byte| (low.min(*byte), high.max(*byte)));
            report.byte_range = Some(range);
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
            sizes.add(name.clone(), size);
            report.other_colours += usize::from(lost.colours);
            report.animations += usize::from(lost.frames);
            *report.forms.entry(form.to_owned()).or_insert(0) += 1;
            metadata.names.push(unique_name(name, &mut used_names));
            metadata.labels.push(label);
        }
        sink.append(&pixels)?;
        check_damaged_count(source, &report.damaged, config.max_bad)?;
        cancelled(progress(PrepareProgress::Done(done, source.count().max(done))))?;
    }
    report.sizes = sizes.counts();
    if sizes.share() >= NATURAL_SHARE {
        let others = sizes.others().into_iter().take(MAX_NAMED);
        report.other_sizes = others
            .map(|(width, height, count, name)| (width, height, count, name.to_owned()))
            .collect();
    }
    if metadata.names.is_empty() {
        return Err(no_usable_pictures(source, &report.damaged));
    }
    Ok((metadata, report, [channels, target.height, target.width]))
}

/// The name, with a number added if it is already used. Subsets are chosen by names, so names must
/// be unique.
fn unique_name(name: String, used: &mut HashMap<String, usize>) -> String {
    let times = used.entry(name.clone()).or_insert(0);
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

/// A picture after scaling.
struct PreparedPicture {
    name: String,
    label: Option<u32>,
    size: (usize, usize),
    form: &'static str,
    lost: Lost,
    planes: Planes,
}

fn prepare_record(
    record: Record,
    target: &Target,
    classes: usize,
) -> Result<PreparedPicture, DamagedPicture> {
    let Record { name, label, content } = record;
    if let Some(label) = label.filter(|label| *label as usize >= classes) {
        return Err(DamagedPicture {
            name,
            reason: format!("its class is {label}, but there are only {classes} classes"),
        });
    }
    let prepared = content.and_then(Content::decode).and_then(|raster| {
        let (size, form, lost) = ((raster.width, raster.height), raster.form, raster.lost);
        Ok((size, form, lost, target.apply(raster)?))
    });
    match prepared {
        Ok((size, form, lost, planes)) => {
            Ok(PreparedPicture { name, label, size, form, lost, planes })
        }
        Err(reason) => Err(DamagedPicture { name, reason }),
    }
}

pub(crate) fn no_usable_pictures(source: &Source, damaged: &[DamagedPicture]) -> DataError {
    let problem = match damaged.len() {
        0 => "it contains no pictures".to_owned(),
        n => format!("none of its {n} pictures can be used"),
    };
    damaged_error(source, problem, damaged)
}

/// # Errors
/// If more than `max_bad` pictures are damaged.
pub(crate) fn check_damaged_count(
    source: &Source,
    damaged: &[DamagedPicture],
    max_bad: usize,
) -> Result<(), DataError> {
    if damaged.len() <= max_bad {
        return Ok(());
    }
    let problem = format!(
        "more than {max_bad} pictures cannot be used; raise max_bad (--max-bad) to leave them out"
    );
    Err(damaged_error(source, problem, damaged))
}

fn damaged_error(source: &Source, problem: String, damaged: &[DamagedPicture]) -> DataError {
    let mut reasons: Vec<String> =
        damaged.iter().take(MAX_NAMED).map(DamagedPicture::to_string).collect();
    if damaged.len() > MAX_NAMED {
        reasons.push("…".to_owned());
    }
    DataError::Damaged { path: source.path().to_owned(), problem, reasons }
}
