//! What `--data` and the flags beside it mean.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use diffusion_data::{
    Background, Channels, Fit, ImageDataset, PictureConfig, PrepareProgress, Prepared, Report, Source, Split,
    mnist, prepare,
};

use crate::session::interrupt;
use crate::session::progress::Progress;
use crate::session::usage::bail_usage;

/// 10,000 digits of MNIST's training set; `assets/mnist/README.md` says which, and under what licence.
const IMAGES: &[u8] = include_bytes!("../../../assets/mnist/train-10k-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../../assets/mnist/train-10k-labels-idx1-ubyte.gz");

/// Where `diffusion data download NAME` puts things.
const DOWNLOADS: &str = "data";
/// What begins the name of a data set on the hub.
const HUB: &str = "hf:";
/// So many damaged pictures are named in the log.
const SHOWN: usize = 10;

/// What is done to the pictures.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Pictures")]
pub(crate) struct PictureArgs {
    /// Bring the pictures to SIZE×SIZE pixels [default: as they are if the first 64 have one size up to 64×64,
    /// else 32]
    #[arg(long, value_name = "SIZE", value_parser = clap::value_parser!(u64).range(1..=4096))]
    size: Option<u64>,
    /// auto (grey if no picture has colour), grey or rgb
    #[arg(long, value_name = "CHANNELS")]
    channels: Option<Channels>,
    /// How a picture becomes square: crop (its middle), pad (all of it, on background) or stretch
    #[arg(long, value_name = "FIT")]
    fit: Option<Fit>,
    /// The colour behind transparent pictures and beside padded ones: white, black, grey or #rrggbb
    #[arg(long, value_name = "COLOUR")]
    background: Option<Background>,
    /// Keep the pictures an eighth larger and cut another window out of them in each pass
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    random_crop: Option<bool>,
    /// Mirror pictures at random, left to right
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flip: Option<bool>,
    /// Give each picture N times in a pass [default: once, or as often as it takes to fill a batch]
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
    /// Take these classes only
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    classes: Option<Vec<String>>,
    /// Take N of the pictures, spread over all of them
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Keep this share of the pictures out of training and report the loss on them
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) validation: Option<f64>,
    /// Leave out up to N damaged pictures before giving up [default: 100]
    #[arg(long, value_name = "N")]
    max_bad: Option<usize>,
}

impl PictureArgs {
    /// Lays the flags over a configuration. Returns the first one given that changes the numbers of a training.
    pub(crate) fn apply(&self, size: &mut Option<usize>, config: &mut PictureConfig) -> Option<&'static str> {
        fn set<T: Clone>(
            field: &mut T,
            flag: Option<&T>,
            name: &'static str,
            first: &mut Option<&'static str>,
        ) {
            if let Some(value) = flag {
                field.clone_from(value);
                first.get_or_insert(name);
            }
        }
        let mut first = None;
        let side = self.size.map(|side| Some(side as usize));
        set(size, side.as_ref(), "--size", &mut first);
        set(&mut config.channels, self.channels.as_ref(), "--channels", &mut first);
        set(&mut config.fit, self.fit.as_ref(), "--fit", &mut first);
        set(&mut config.background, self.background.as_ref(), "--background", &mut first);
        set(&mut config.random_crop, self.random_crop.as_ref(), "--random-crop", &mut first);
        set(&mut config.flip, self.flip.as_ref(), "--flip", &mut first);
        set(&mut config.repeat, self.repeat.as_ref(), "--repeat", &mut first);
        set(&mut config.classes, self.classes.as_ref(), "--classes", &mut first);
        set(&mut config.limit, self.limit.map(Some).as_ref(), "--limit", &mut first);
        set(&mut config.validation, self.validation.as_ref(), "--validation", &mut first);
        config.max_bad = self.max_bad.unwrap_or(config.max_bad);
        first
    }
}

/// Where prepared pictures are kept.
#[derive(clap::Args)]
#[command(next_help_heading = "Pictures")]
pub(crate) struct CacheArgs {
    /// The folder for prepared pictures, shared by all runs [default: DIFFUSION_CACHE, else diffusion/ in the
    /// user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Prepare the pictures anew, in memory
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    fn folder(&self) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.cache.clone().or_else(|| variable("DIFFUSION_CACHE")).or_else(|| {
            let home = || variable("HOME").map(|home| home.join(".cache"));
            let base = variable("XDG_CACHE_HOME").or_else(|| variable("LOCALAPPDATA")).or_else(home);
            base.map(|base| base.join("diffusion"))
        })
    }
}

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

/// Refuses pictures that a run was trained on and that have gone since; `flag` names others.
pub(crate) fn check_there(path: Option<&Path>, flag: &str) -> anyhow::Result<()> {
    match path {
        Some(path) if hub_reference(path).is_none() && !path.exists() => {
            bail_usage!(
                "{}: the pictures that the run was trained on are not there any more; {flag} names others",
                path.display()
            )
        }
        _ => Ok(()),
    }
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
    let prepared =
        prepare(source, size, config, cache.folder().as_deref(), &mut |event| progress.show(event))?;
    if let Some(problem) = &prepared.cache_problem {
        tracing::warn!("the pictures are kept in memory, since the cache cannot be used: {problem}");
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
                    self.progress.note("another program prepares the same pictures; waiting for it");
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

/// The pictures of `path`, or the embedded digits, as the flags over `(size, config)` choose and [`select`] divides them; damaged ones
/// are named.
pub(crate) fn chosen(
    path: Option<&Path>,
    flags: &PictureArgs,
    (mut size, mut config): (Option<usize>, PictureConfig),
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
    flags.apply(&mut size, &mut config);
    if let Some((field, value, expected)) = config.problem() {
        bail_usage!("{field}: {value}: {expected}");
    }
    let path = path.map(resolve).transpose()?;
    let prepared = prepared(&open(path.as_deref())?, size, &config, cache, quiet)?;
    report_damaged(&prepared.report.damaged);
    select(prepared.dataset, &config)
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
    format!("{} {colour} pictures of {width}×{height} from {name} ({})", dataset.len(), found.join(", "))
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
