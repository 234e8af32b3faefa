//! `--data` and the flags beside it.

use std::path::{Path, PathBuf};

use diffusion_data::{Background, Channels, Fit, ImageDataset, PictureConfig};

use super::{open, prepared, report_damaged, resolve, select};
use crate::session::usage::bail_usage;

/// Pictures, how they are prepared, and where they are kept. A command with another default says so by
/// `#[command(mut_arg("data", …))]`.
#[derive(clap::Args, Clone)]
pub(crate) struct DataArgs {
    /// The pictures: whatever --data of train understands [default: the embedded digits]
    #[arg(id = "data", long = "data", value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pictures: PictureArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
}

impl DataArgs {
    /// The pictures of --data, or the embedded digits, as the flags over `(size, config)` choose and
    /// [`select`] divides them; damaged ones are named.
    pub(crate) fn chosen(
        &self,
        usual: (Option<usize>, PictureConfig),
        quiet: bool,
    ) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
        self.chosen_from(self.path.as_deref(), usual, quiet)
    }

    /// The same of `path`, in place of --data.
    pub(crate) fn chosen_from(
        &self,
        path: Option<&Path>,
        (mut size, mut config): (Option<usize>, PictureConfig),
        quiet: bool,
    ) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
        self.pictures.apply(&mut size, &mut config);
        if let Some((field, value, expected)) = config.problem() {
            bail_usage!("{field}: {value}: {expected}");
        }
        let path = path.map(resolve).transpose()?;
        let prepared = prepared(&open(path.as_deref())?, size, &config, &self.cache, quiet)?;
        report_damaged(&prepared.report.damaged);
        select(prepared.dataset, &config)
    }
}

/// What is done to the pictures.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Pictures")]
pub(crate) struct PictureArgs {
    /// Bring the pictures to SIZE×SIZE pixels [default: as they are if the first 64 have one size up to
    /// 64×64, else 32]
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
    /// Lays the flags over a configuration. Returns the first one given that changes the numbers of a
    /// training.
    pub(crate) fn apply(
        &self,
        size: &mut Option<usize>,
        config: &mut PictureConfig,
    ) -> Option<&'static str> {
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
#[derive(clap::Args, Clone)]
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
    pub(super) fn folder(&self) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        let variable =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.cache.clone().or_else(|| variable("DIFFUSION_CACHE")).or_else(|| {
            let home = || variable("HOME").map(|home| home.join(".cache"));
            let base =
                variable("XDG_CACHE_HOME").or_else(|| variable("LOCALAPPDATA")).or_else(home);
            base.map(|base| base.join("diffusion"))
        })
    }
}
