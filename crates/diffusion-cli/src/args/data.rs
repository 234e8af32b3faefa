//! What `--data` and the flags beside it mean.

mod args;
mod trained_on;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use diffusion_data::{
    ImageDataset, PictureConfig, PrepareProgress, Prepared, Report, Source, Split, mnist, prepare,
};

pub(crate) use self::args::{CacheArgs, DataArgs, PictureArgs};
pub(crate) use self::trained_on::TrainedOn;

use crate::session::interrupt;
use crate::session::progress::Progress;
use crate::session::usage::bail_usage;

/// 10,000 digits of MNIST's training set; `assets/mnist/README.md` says which, and under what licence.
const IMAGES: &[u8] = include_bytes!("../../../../assets/mnist/train-10k-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../../../assets/mnist/train-10k-labels-idx1-ubyte.gz");

/// Where `diffusion data download NAME` puts things.
const DOWNLOADS: &str = "data";
/// What begins the name of a data set on the hub.
const HUB: &str = "hf:";
/// So many damaged pictures are named in the log.
const SHOWN: usize = 10;

/// A flag that names pictures.
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

    /// How one asks for the digits that the program knows.
    fn digits(self) -> &'static str {
        match self {
            Self::Data => "leave --data out for the digits that come with the program",
            Self::Against => "say `--against mnist` for the test digits that the program knows",
            Self::Training => "say `--training mnist` for the digits that come with the program",
        }
    }
}

/// What `argument` of --data means as a path: as it is if that exists or is on the hub, else as the name of a downloaded set.
pub(crate) fn resolve(argument: &Path) -> anyhow::Result<PathBuf> {
    resolve_for(Flag::Data, argument)
}

/// The same, of another flag.
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
            "{} {name}: there is no such file or folder; {}, fetch mnist, fashion-mnist or cifar10 by `{} NAME`, or name a \
             data set of the Hugging Face hub as hf:OWNER/NAME",
            flag.name(),
            flag.digits(),
            crate::args::runs::program("data download")
        )
    }
}

/// What `path` names on the hub, if it does.
fn hub_reference(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(HUB)
}

/// Opens what `path` of --data means, or the embedded digits.
pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<Source> {
    open_for(Flag::Data, path)
}

/// The same, of another flag.
pub(crate) fn open_for(flag: Flag, path: Option<&Path>) -> anyhow::Result<Source> {
    let Some(path) = path else {
        return Ok(Source::from_dataset(mnist::from_bytes(IMAGES, LABELS)?, "the embedded digits"));
    };
    match hub_reference(path) {
        Some(reference) => on_hub(flag, reference),
        None => Ok(Source::open(path, Split::Train)?),
    }
}

#[cfg(feature = "hub")]
fn on_hub(flag: Flag, reference: &str) -> anyhow::Result<Source> {
    let reference = match reference.parse() {
        Ok(reference) => reference,
        Err(error) => bail_usage!("{} {HUB}{reference}: {error}", flag.name()),
    };
    let files = crate::commands::data::download::fetch_reference(&reference)?;
    // The shards of a part lie in one folder, and nothing else does.
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

/// Prepares all pictures of `source`, with progress; to name the damaged ones is the caller's.
pub(crate) fn prepared(
    source: &Source,
    size: Option<usize>,
    config: &PictureConfig,
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<Prepared> {
    let mut progress = Preparing::new(source, quiet);
    let prepared = prepare(source, size, config, cache.folder().as_deref(), &mut |event| {
        progress.show(event)
    })?;
    if let Some(problem) = &prepared.cache_problem {
        tracing::warn!(
            "the pictures are kept in memory, since the cache cannot be used: {problem}"
        );
    }
    Ok(prepared)
}

/// Progress over a source's pictures.
pub(crate) struct Preparing {
    progress: Progress,
    started: Instant,
    waiting: bool,
}

impl Preparing {
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
                        .note("another program prepares the same pictures; waiting for it");
                }
            }
            // What takes a moment is not worth a word.
            PrepareProgress::Done(..) if self.started.elapsed() < Duration::from_secs(1) => {}
            PrepareProgress::Done(done, all) => {
                self.progress.set(done as u64, || format!("{done} of {all}"));
            }
        }
        interrupt::flow()
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        self.progress.finish();
    }
}

/// Names the first pictures that were left out.
pub(crate) fn report_damaged(damaged: &[diffusion_data::Damaged]) {
    for picture in damaged.iter().take(SHOWN) {
        tracing::warn!("left out {picture}");
    }
    if damaged.len() > SHOWN {
        tracing::warn!(
            "left out {} more; `{} PATH` names them all",
            damaged.len() - SHOWN,
            crate::args::runs::program("data inspect")
        );
    }
}

/// The pictures that a configuration chooses: those to train on, and those kept for validation.
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

/// One line about a data set and the source that it was prepared from, which the user called `path`.
pub(crate) fn describe(
    path: Option<&Path>,
    source: &Source,
    report: &Report,
    dataset: &ImageDataset,
) -> String {
    let [channels, height, width] = dataset.image_shape();
    let colour = if channels == 1 { "grey" } else { "RGB" };
    let mut found = vec![source.what()];
    found.extend(sizes(report).filter(|sizes| *sizes != format!("{width}×{height}")));
    if !dataset.classes().is_empty() {
        found.push(format!("{} classes", dataset.classes().len()));
    }
    if !report.damaged.is_empty() {
        found.push(format!("{} left out", report.damaged.len()));
    }
    let name = path.unwrap_or(source.path()).display();
    format!(
        "{} {colour} pictures of {width}×{height} from {name} ({})",
        dataset.len(),
        found.join(", ")
    )
}

/// The size of all pictures of a source, or the range of their sides.
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
