//! `--data` and the flags of pictures: from a path to prepared pictures.

mod args;
mod training_source;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use diffusion_assets::{MNIST_IMAGES, MNIST_LABELS};
use diffusion_data::{
    DataError, ImageDataset, PictureConfig, PrepareProgress, PreparedDataset, Report, Source,
    Split, mnist, prepare,
};
use diffusion_model::RunLayout;

pub(crate) use self::args::{AppearanceArgs, CacheArgs, DataArgs, PictureArgs};
pub(crate) use self::training_source::{TrainingSource, trained_side};

use crate::session::interrupt;
use crate::session::progress::Progress;
use crate::session::usage::bail_usage;

/// The folder that `diffusion data download NAME` downloads into.
const DOWNLOADS: &str = "data";
/// The prefix of a data set on the hub.
const HUB: &str = "hf:";
/// The largest number of damaged pictures that the log names.
const SHOWN: usize = 10;

/// A flag whose value is a source of pictures.
#[derive(Clone, Copy)]
pub(crate) enum Flag {
    Data,
    Against,
    Training,
}

impl Flag {
    fn name(self) -> &'static str {
        match self {
            Self::Data => "--data",
            Self::Against => "--against",
            Self::Training => "--training",
        }
    }

    /// How to select the embedded digits, for an error.
    fn digits(self) -> &'static str {
        match self {
            Self::Data => "leave --data out to use the digits that come with the program",
            Self::Against => "use `--against mnist` for the test digits of MNIST",
            Self::Training => "use `--training mnist` for the digits that come with the program",
        }
    }
}

/// The path that the value of --data means: the value itself if it exists or is on the hub,
/// otherwise the downloaded set of that name.
pub(crate) fn resolve(argument: &Path) -> anyhow::Result<PathBuf> {
    resolve_for(Flag::Data, argument)
}

/// The path that the value of `flag` means. See [`resolve`].
pub(crate) fn resolve_for(flag: Flag, argument: &Path) -> anyhow::Result<PathBuf> {
    let downloaded = Path::new(DOWNLOADS).join(argument);
    if hub_reference(argument).is_some() {
        Ok(argument.to_owned())
    } else if argument.exists() {
        Ok(std::path::absolute(argument)?)
    } else if downloaded.exists() {
        Ok(std::path::absolute(downloaded)?)
    } else {
        let name = argument.display();
        bail_usage!(
            "{} {name}: there is no such file or folder; {}, download mnist, fashion-mnist or cifar10 \
             with `{} NAME`, or name a data set of the Hugging Face hub as hf:OWNER/NAME",
            flag.name(),
            flag.digits(),
            crate::args::runs::program("data download")
        )
    }
}

/// The name on the hub, if `path` begins with `hf:`.
fn hub_reference(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(HUB)
}

/// Opens the pictures at `path`, the value of --data; `None` means the embedded digits.
pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<Source> {
    open_for(Flag::Data, path)
}

/// Opens the pictures at `path`, the value of `flag`; `None` means the embedded digits.
pub(crate) fn open_for(flag: Flag, path: Option<&Path>) -> anyhow::Result<Source> {
    let Some(path) = path else {
        return Ok(Source::from_dataset(
            mnist::from_bytes(MNIST_IMAGES, MNIST_LABELS)?,
            "the embedded digits",
        ));
    };
    let source = match hub_reference(path) {
        Some(reference) => on_hub(flag, reference),
        None => Source::open(path, Split::Train).map_err(|error| match error {
            DataError::NothingFound { .. } if RunLayout::new(path).is_run() => {
                anyhow!("{error}; this is the folder of a run")
            }
            error => error.into(),
        }),
    }?;
    for note in source.notes() {
        tracing::warn!("{}: {note}", path.display());
    }
    Ok(source)
}

#[cfg(feature = "hub")]
fn on_hub(flag: Flag, reference: &str) -> anyhow::Result<Source> {
    let reference = match reference.parse() {
        Ok(reference) => reference,
        Err(error) => bail_usage!("{} {HUB}{reference}: {error}", flag.name()),
    };
    let files = crate::commands::data::download::fetch_reference(&reference)?;
    // The folder contains the shards of one split and nothing else.
    let folder = files.first().and_then(|file| file.parent()).unwrap_or(Path::new(""));
    Ok(Source::open(folder, Split::Train)?)
}

#[cfg(not(feature = "hub"))]
fn on_hub(flag: Flag, reference: &str) -> anyhow::Result<Source> {
    bail_usage!(
        "{} {HUB}{reference}: this program was built without the hub; build it with --features hub",
        flag.name()
    )
}

/// Prepares all pictures of `source` and shows progress. The caller reports the damaged ones.
pub(crate) fn prepare_pictures(
    source: &Source,
    size: Option<usize>,
    config: &PictureConfig,
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<PreparedDataset> {
    let mut progress = PreparationProgress::new(source, quiet);
    let prepared = prepare(source, size, config, cache.folder().as_deref(), &mut |event| {
        progress.show(event)
    })?;
    if let Some(problem) = &prepared.cache_problem {
        tracing::warn!(
            "the pictures are kept in memory, because the cache cannot be used: {problem}"
        );
    }
    warn_of_pixels(&prepared.report);
    for (width, height, count, name) in &prepared.report.other_sizes {
        let more = if *count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        tracing::warn!("{name}{more} has {width}×{height} pixels, unlike most of the pictures");
    }
    Ok(prepared)
}

/// Warns of pictures whose pixels are probably not as they should be.
fn warn_of_pixels(report: &Report) {
    /// Bytes up to this one look black.
    const BLACK: u8 = 8;
    match report.byte_range {
        Some((low, high)) if low == high => tracing::warn!(
            "every pixel of every picture is {low} of 255; transparent pictures of one colour may \
             need another --background"
        ),
        Some((_, high)) if high <= BLACK => tracing::warn!(
            "the pictures are nearly black: no pixel is above {high} of 255; if their numbers are \
             0 and 1, multiply them by 255"
        ),
        _ => {}
    }
    if report.other_colours > 0 {
        tracing::warn!(
            "{} pictures have a colour profile other than sRGB, which is not applied; convert them \
             to sRGB for the right colours",
            report.other_colours
        );
    }
    if report.animations > 0 {
        tracing::warn!(
            "{} pictures are animations, of which only the first frame is used",
            report.animations
        );
    }
}

/// The display of a preparation.
pub(crate) struct PreparationProgress {
    progress: Progress,
    started: Instant,
    waiting: bool,
}

impl PreparationProgress {
    pub(crate) fn new(source: &Source, quiet: bool) -> Self {
        Self {
            progress: Progress::new("preparing pictures", source.count() as u64, quiet),
            started: Instant::now(),
            waiting: false,
        }
    }

    pub(crate) fn show(&mut self, event: PrepareProgress) -> ControlFlow<()> {
        match event {
            PrepareProgress::Waiting => {
                if !std::mem::replace(&mut self.waiting, true) {
                    self.progress
                        .note("another program is preparing the same pictures; waiting for it");
                }
            }
            // A short preparation shows nothing.
            PrepareProgress::Done(..) if self.started.elapsed() < Duration::from_secs(1) => {}
            PrepareProgress::Done(done, all) => {
                self.progress.set(done as u64, || format!("{done} of {all}"));
            }
        }
        interrupt::flow()
    }
}

impl Drop for PreparationProgress {
    fn drop(&mut self) {
        self.progress.finish();
    }
}

/// Logs the damaged pictures that were left out, at most [`SHOWN`] by name.
pub(crate) fn report_damaged(damaged: &[diffusion_data::DamagedPicture]) {
    for picture in damaged.iter().take(SHOWN) {
        tracing::warn!("left out {picture}");
    }
    if damaged.len() > SHOWN {
        tracing::warn!(
            "left out {} more; `{} PATH` lists all of them",
            damaged.len() - SHOWN,
            crate::args::runs::program("data inspect")
        );
    }
}

/// The pictures that `config` selects: the training set, and the validation set if there is one.
pub(crate) fn select(
    dataset: ImageDataset,
    config: &PictureConfig,
) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
    let mut dataset = dataset;
    if !config.classes.is_empty() {
        dataset = dataset.of_classes(&config.classes)?;
    }
    if let Some(limit) = config.limit {
        dataset = dataset.limited(limit)?;
    }
    if config.validation == 0.0 {
        return Ok((dataset, None));
    }
    let (training, validation) = dataset.split(config.validation)?;
    Ok((training, Some(validation)))
}

/// The classes that pictures of `set` have.
pub(crate) fn labels(set: &ImageDataset) -> HashSet<u32> {
    (0..set.len()).filter_map(|i| set.label(i)).collect()
}

/// The pictures without a `share` of them, and that share; `None` if no picture or a class would be
/// left out of the first.
pub(crate) fn split_by_default(
    all: ImageDataset,
    share: f64,
) -> (ImageDataset, Option<ImageDataset>) {
    match all.split(share) {
        Ok((training, others)) if labels(&training) == labels(&all) => (training, Some(others)),
        _ => (all, None),
    }
}

/// One line about a data set and its source; `path` is the value of --data.
pub(crate) fn describe(
    path: Option<&Path>,
    source: &Source,
    report: &Report,
    dataset: &ImageDataset,
) -> String {
    let [channels, height, width] = dataset.image_shape();
    let colour = if channels == 1 { "grey" } else { "RGB" };
    let mut details = vec![source.description()];
    details.extend(sizes(report).filter(|sizes| *sizes != format!("{width}×{height}")));
    if !dataset.classes().is_empty() {
        details.push(format!("{} classes", dataset.classes().len()));
    }
    if !report.damaged.is_empty() {
        details.push(format!("{} left out", report.damaged.len()));
    }
    let name = path.unwrap_or(source.path()).display();
    format!(
        "{} {colour} pictures of {width}×{height} from {name} ({})",
        dataset.len(),
        details.join(", ")
    )
}

/// The size of all pictures of a source if they have one size, otherwise the ranges of width and
/// height.
pub(crate) fn sizes(report: &Report) -> Option<String> {
    let sides = |side: fn(&(usize, usize, usize)) -> usize| {
        let sides = report.sizes.iter().map(side);
        Some((sides.clone().min()?, sides.max()?))
    };
    let ((narrow, wide), (low, high)) = (sides(|size| size.0)?, sides(|size| size.1)?);
    Some(if (narrow, low) == (wide, high) {
        format!("{wide}×{high}")
    } else {
        format!("{narrow} to {wide} pixels wide and {low} to {high} high")
    })
}
