//! The flags of pictures.

use std::path::{Path, PathBuf};

use diffusion_data::{Background, Channels, Fit, ImageDataset, PictureConfig};

use super::{open, prepare_pictures, report_damaged, resolve, select};
use crate::args::numbers::whole;
use crate::session::usage::{bail_usage, first_given};

/// The heading of [`PictureArgs`] and [`CacheArgs`] in a help text. Each flag names it, because
/// `next_help_heading` would also apply to the later flags of a command.
const HEADING: &str = "Pictures";

/// The flags of pictures, their preparation and their cache. A command replaces the help of
/// `--data` with `#[command(mut_arg("data", …))]`, which is why that help has no second paragraph.
#[derive(clap::Args, Clone)]
pub(crate) struct DataArgs {
    /// Pictures, in any form that `train --data` accepts [default: 10,000 embedded digits of MNIST]
    #[arg(id = "data", long = "data", value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pictures: PictureArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
}

impl DataArgs {
    /// The pictures of --data or the embedded digits, split by [`select`]. The flags override
    /// `defaults`, the size and the configuration. Logs damaged pictures.
    pub(crate) fn load(
        &self,
        defaults: (Option<usize>, PictureConfig),
        quiet: bool,
    ) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
        self.load_from(self.path.as_deref(), defaults, quiet)
    }

    /// Like [`load`](Self::load), with `path` instead of --data.
    pub(crate) fn load_from(
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
        let prepared =
            prepare_pictures(&open(path.as_deref())?, size, &config, &self.cache, quiet)?;
        report_damaged(&prepared.report.damaged);
        select(prepared.dataset, &config)
    }
}

/// The flags of the size, the channels, the fit and the background of pictures.
#[derive(clap::Args, Clone)]
pub(crate) struct AppearanceArgs {
    /// Resize the pictures to SIZE×SIZE pixels, 1 to 4096 [default: their own size if 95 % of the
    /// pictures have the same size of at most 64×64, otherwise 32]
    #[arg(long, help_heading = HEADING, value_name = "SIZE", value_parser = whole(1..=4096))]
    size: Option<u64>,
    /// Colour channels of the images: auto, grey or rgb [default: auto]
    ///
    /// auto means grey if no picture has colour, otherwise rgb.
    #[arg(long, help_heading = HEADING, value_name = "CHANNELS")]
    channels: Option<Channels>,
    /// Method of making a picture square: crop, pad or stretch [default: crop]
    ///
    /// crop keeps the square in the middle, pad keeps the whole picture and fills two sides with
    /// --background, stretch distorts the picture.
    #[arg(long, help_heading = HEADING, value_name = "FIT")]
    fit: Option<Fit>,
    /// Colour of transparent pixels and of padding: white, black, grey or #rrggbb [default: white]
    #[arg(long, help_heading = HEADING, value_name = "COLOUR")]
    background: Option<Background>,
}

impl AppearanceArgs {
    /// Overrides a configuration with the flags.
    pub(crate) fn apply(&self, size: &mut Option<usize>, config: &mut PictureConfig) {
        *size = self.size.map(|side| side as usize).or(*size);
        config.channels = self.channels.unwrap_or(config.channels);
        config.fit = self.fit.unwrap_or(config.fit);
        config.background = self.background.unwrap_or(config.background);
    }

    /// The name of the first given flag.
    pub(crate) fn given(&self) -> Option<&'static str> {
        first_given(&[
            ("--size", self.size.is_some()),
            ("--channels", self.channels.is_some()),
            ("--fit", self.fit.is_some()),
            ("--background", self.background.is_some()),
        ])
    }
}

/// The flags of the selection and preparation of pictures. Their defaults hold where no preset,
/// configuration file or run sets another value.
#[derive(clap::Args, Clone)]
pub(crate) struct PictureArgs {
    #[command(flatten)]
    appearance: AppearanceArgs,
    /// Cut a random window out of each picture in each pass; the pictures are prepared an eighth
    /// larger [default: false]
    ///
    /// Use it as augmentation of small sets.
    #[arg(long, help_heading = HEADING, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    random_crop: Option<bool>,
    /// Mirror each picture left to right with probability 1/2 in each pass [default: false; true in
    /// the preset cifar10]
    ///
    /// Use it as augmentation where a mirrored picture is still a valid one; digits and letters are
    /// not.
    #[arg(long, help_heading = HEADING, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flip: Option<bool>,
    /// Transform pictures at random, each kind of transformation with probability P, from 0 to 1:
    /// mirroring top to bottom, scaling, rotation by any angle, stretching and shifting [default:
    /// 0]
    ///
    /// The network is conditioned on the transformations, and images are sampled without them
    /// (Karras et al. 2022). Use it for small sets, with 0.12 for example. Without --flip, pictures
    /// are also mirrored left to right half of the time, and the network is conditioned on that,
    /// too. With --flip it is not, so that images are mirrored as often as not.
    #[arg(long, help_heading = HEADING, value_name = "P", allow_negative_numbers = true)]
    augment: Option<f64>,
    /// Number of times that a pass contains each picture, 1 to 1,000,000 [default: 1, or more if
    /// the pictures do not fill one batch]
    #[arg(long, help_heading = HEADING, value_name = "N")]
    repeat: Option<usize>,
    /// Use only the pictures of these classes, by name, separated by commas [default: all]
    #[arg(long, help_heading = HEADING, value_name = "NAMES", value_delimiter = ',', allow_hyphen_values = true)]
    classes: Option<Vec<String>>,
    /// Use only N pictures, at least 1, chosen by a hash of their names [default: all]
    #[arg(long, help_heading = HEADING, value_name = "N")]
    limit: Option<usize>,
    /// Share of the pictures that is kept out of training for validation, from 0 to below 1
    /// [default: 0.1 in a training on 100 to 2000 pictures, else 0]
    ///
    /// Training reports the loss on these pictures. They are chosen by a hash of their names, so a
    /// picture stays on its side when others are added or removed.
    #[arg(long, help_heading = HEADING, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) validation: Option<f64>,
    /// Number of damaged pictures to leave out; more of them are an error [default: 100]
    #[arg(long, help_heading = HEADING, value_name = "N")]
    max_bad: Option<usize>,
}

impl PictureArgs {
    /// Overrides a configuration with the flags. Returns the first given flag that changes the
    /// results of a training.
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
        self.appearance.apply(size, config);
        let mut first = self.appearance.given();
        set(&mut config.random_crop, self.random_crop.as_ref(), "--random-crop", &mut first);
        set(&mut config.flip, self.flip.as_ref(), "--flip", &mut first);
        set(&mut config.augment, self.augment.as_ref(), "--augment", &mut first);
        set(&mut config.repeat, self.repeat.as_ref(), "--repeat", &mut first);
        set(&mut config.classes, self.classes.as_ref(), "--classes", &mut first);
        set(&mut config.limit, self.limit.map(Some).as_ref(), "--limit", &mut first);
        set(&mut config.validation, self.validation.as_ref(), "--validation", &mut first);
        config.max_bad = self.max_bad.unwrap_or(config.max_bad);
        first
    }
}

/// The flags of the cache of prepared pictures.
#[derive(clap::Args, Clone)]
pub(crate) struct CacheArgs {
    /// Folder for prepared pictures, shared by all runs [default: the environment variable
    /// DIFFUSION_CACHE, otherwise diffusion/ in the user's cache folder]
    #[arg(long, help_heading = HEADING, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Prepare the pictures in memory, without the cache
    ///
    /// Use it where the disk is too small or read-only.
    #[arg(long, help_heading = HEADING)]
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
