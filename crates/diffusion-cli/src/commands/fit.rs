//! What `train-classifier` and `train-judge` share: flags, held-out pictures and progress.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use diffusion_data::{ImageDataset, PictureConfig};
use diffusion_train::ClassifierStep;

use crate::args::data::{self, DataArgs};
use crate::args::numbers::{positive, whole};
use crate::session::interrupt;
use crate::session::progress::{Progress, clock};
use crate::session::usage::bail_usage;

/// The flags of a classifier's training.
#[derive(clap::Args)]
pub(super) struct FitArgs {
    /// Stop after N updates; at least 1 [default: no limit]
    ///
    /// If --max-minutes is given too, training ends at the first limit reached.
    #[arg(long, value_name = "N", value_parser = whole(1..))]
    pub(super) steps: Option<u64>,
    /// Pictures per update; 1 to 65,536
    #[arg(long, value_name = "N", default_value = "128", value_parser = whole(1..=65_536))]
    pub(super) batch_size: u64,
    /// Base learning rate; above 0
    ///
    /// The warm-up rises to this rate, and the decay falls from it.
    #[arg(long, value_name = "RATE", default_value = "0.002", value_parser = positive, allow_negative_numbers = true)]
    pub(super) lr: f64,
    /// Seed of the weights, picture order and all other random numbers; 0 to 2^63 - 1
    #[arg(long, value_name = "SEED", default_value = "0", value_parser = whole(..1 << 63))]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) data: DataArgs,
}

impl FitArgs {
    /// The prepared pictures, and whether they are to be mirrored at random.
    pub(super) fn pictures(&self, quiet: bool) -> anyhow::Result<(ImageDataset, bool)> {
        let (mut size, mut pictures) = (None, PictureConfig::default());
        self.data.pictures.apply(&mut size, &mut pictures);
        if pictures.augment > 0.0 {
            bail_usage!("--augment is a setting of `train`; classifiers are trained with --flip");
        }
        // Held-out pictures are split off later, in another way.
        let mut data = self.data.clone();
        data.pictures.validation = None;
        let (all, _) = data.load((None, PictureConfig::default()), quiet)?;
        Ok((all, pictures.flip))
    }

    /// The time limit: `given`, or the default if the number of updates is not limited.
    pub(super) fn minutes(&self, given: Option<f64>, default: Option<f64>) -> Option<f64> {
        if self.steps.is_some() { given } else { given.or(default) }
    }
}

/// The progress of a training, on the terminal.
pub(super) struct FitProgress {
    bar: Progress,
    start: Instant,
    batch_size: u64,
    /// Whether the training was interrupted.
    pub(super) interrupted: bool,
}

impl FitProgress {
    /// Also logs what is trained on.
    pub(super) fn new(
        args: &FitArgs,
        training: &ImageDataset,
        held_out: Option<&ImageDataset>,
        device: &Device,
        quiet: bool,
    ) -> Self {
        tracing::info!(
            "{} training pictures, {} held out to measure the accuracy, {} on {} threads",
            training.len(),
            held_out.map_or(0, ImageDataset::len),
            crate::session::device::name(device),
            rayon::current_num_threads()
        );
        let bar = Progress::new("training", PARTS, quiet);
        Self { bar, start: Instant::now(), batch_size: args.batch_size, interrupted: false }
    }

    pub(super) fn show(&mut self, step: &ClassifierStep) -> ControlFlow<()> {
        let Self { bar, start, batch_size, .. } = self;
        bar.set((step.progress * PARTS as f64) as u64, || {
            let elapsed = start.elapsed().as_secs_f64();
            let left = elapsed / step.progress.max(1e-9) * (1.0 - step.progress);
            let images_per_second = (step.step * *batch_size) as f64 / elapsed;
            format!(
                "step {}, loss {:.3}, {images_per_second:.0} images/s, {} left",
                step.step,
                step.loss,
                clock(left)
            )
        });
        let flow = interrupt::flow();
        self.interrupted = flow.is_break();
        flow
    }

    /// Ends the display. Returns the duration as text, and where to write the result: an unfinished
    /// one does not replace an existing file.
    pub(super) fn finish(self, out: &Path) -> (String, PathBuf) {
        self.bar.finish();
        let path = if self.interrupted {
            out.with_extension("partial.safetensors")
        } else {
            out.to_owned()
        };
        (clock(self.start.elapsed().as_secs_f64()), path)
    }
}

/// Default share of the pictures that is held out to measure the accuracy.
const HELD_OUT_SHARE: f64 = 0.1;

/// The training pictures, and the held-out `share` of all pictures.
///
/// Without a `share` it is [`HELD_OUT_SHARE`], or nothing if that would leave a class without
/// training pictures.
pub(super) fn split(
    all: ImageDataset,
    share: Option<f64>,
) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
    match share {
        Some(0.0) => Ok((all, None)),
        Some(share) => {
            let (training, held_out) = all.split(share)?;
            for class in data::labels(&all).difference(&data::labels(&training)) {
                let name = &all.classes()[*class as usize];
                tracing::warn!(
                    "all pictures of the class {name} are held out, so it cannot be learned"
                );
            }
            Ok((training, Some(held_out)))
        }
        None => {
            let (training, held_out) = data::split_by_default(all, HELD_OUT_SHARE);
            if held_out.is_none() {
                tracing::warn!(
                    "no pictures are held out, because there are too few of them or of a class; \
                     the accuracy is not measured"
                );
            }
            Ok((training, held_out))
        }
    }
}

/// The length of the progress bar.
const PARTS: u64 = 1000;
