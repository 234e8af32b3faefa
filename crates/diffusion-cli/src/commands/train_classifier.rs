//! `diffusion train-classifier`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use candle_core::Device;
use diffusion_data::{ImageDataset, PictureConfig};
use diffusion_train::{ClassifierConfig, ClassifierStep, classifier_accuracy, train_classifier};

use crate::args::data;
use crate::args::numbers::positive;
use crate::args::runs;
use crate::session::interrupt;
use crate::session::progress::{Progress, clock};
use crate::session::usage::check_output;

/// Train a small classifier of noisy pictures, by which `sample --classifier` steers a model
///
/// The model itself need not know of classes: the classifier says of each noisy image on the way what would make it more of one class
/// (Dhariwal & Nichol 2021). One picture in ten is kept out of the training, and the classifier is tried on them in the end.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion train-classifier --out digits.safetensors\n  \
                        diffusion sample --classifier digits.safetensors --class 7 --guidance 2\n  \
                        diffusion train-classifier --data pictures --size 32 --max-minutes 5",
          mut_arg("data", |arg| arg.help("The pictures, in class folders or with labels, as of `train` [default: 10,000 embedded digits]")))]
pub(crate) struct TrainClassifierArgs {
    #[command(flatten)]
    data: data::DataArgs,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "classifier.safetensors")]
    out: PathBuf,
    /// Stop after M minutes, with the learning rate planned to end there [default: 2]
    #[arg(long, value_name = "M", value_parser = positive, allow_negative_numbers = true)]
    max_minutes: Option<f64>,
    /// Stop after N updates
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Pictures in an update
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch_size: u64,
    /// The base learning rate
    #[arg(long, value_name = "RATE", default_value = "0.002", value_parser = positive, allow_negative_numbers = true)]
    lr: f64,
    /// The seed of weights, order, noise and noise levels
    #[arg(long, value_name = "SEED", default_value = "0", value_parser = clap::value_parser!(u64).range(..1 << 63))]
    seed: u64,
}

/// The share of the pictures that the classifier is tried on.
const KEPT: f64 = 0.1;
/// What a noise of σ beside pictures in \[−1, 1\] is: none, little, some, much.
const SIGMAS: [f64; 5] = [0.0, 0.3, 1.0, 3.0, 10.0];

pub(crate) fn run(
    args: &TrainClassifierArgs,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    check_output("--out", &args.out)?;
    let (mut size, mut pictures) = (None, PictureConfig::default());
    args.data.pictures.apply(&mut size, &mut pictures);
    // What is kept is a part of the labelled pictures.
    let mut whole = args.data.clone();
    whole.pictures.validation = None;
    let (all, _) = whole.chosen((None, PictureConfig::default()), quiet)?;
    let (training, kept) = divided(all.labelled()?, args.data.pictures.validation)?;
    let usual = ClassifierConfig::default();
    let config = ClassifierConfig {
        batch_size: args.batch_size as usize,
        flip: pictures.flip,
        steps: args.steps,
        max_minutes: if args.steps.is_some() {
            args.max_minutes
        } else {
            args.max_minutes.or(usual.max_minutes)
        },
        lr: args.lr,
        seed: args.seed,
        ..usual
    };
    tracing::info!(
        "{} pictures to learn from, {} to try the classifier on, {} on {} threads",
        training.len(),
        kept.as_ref().map_or(0, ImageDataset::len),
        crate::session::device::name(device),
        rayon::current_num_threads()
    );
    let start = Instant::now();
    let mut bar = Progress::new("training", PARTS, quiet);
    let mut interrupted = false;
    let classifier = train_classifier(&config, &training, device, &mut |step: &ClassifierStep| {
        bar.set((step.progress * PARTS as f64) as u64, || {
            let elapsed = start.elapsed().as_secs_f64();
            let left = elapsed / step.progress.max(1e-9) * (1.0 - step.progress);
            let images_per_second = (step.step * args.batch_size) as f64 / elapsed;
            format!(
                "step {}, loss {:.3}, {images_per_second:.0} images/s, {} left",
                step.step,
                step.loss,
                clock(left)
            )
        });
        let flow = interrupt::flow();
        interrupted = flow.is_break();
        flow
    })?;
    bar.finish();
    // What was there before is better than half a classifier.
    let out =
        if interrupted { args.out.with_extension("partial.safetensors") } else { args.out.clone() };
    classifier.write(&out).context("--out")?;
    let path = runs::typed(&out);
    println!(
        "{} steps in {}; {}",
        classifier.description.step,
        clock(start.elapsed().as_secs_f64()),
        if interrupted { format!("what was learnt so far is in {path}") } else { path.clone() }
    );
    if interrupted {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    if let Some(kept) = &kept {
        let told = SIGMAS.map(|sigma| -> anyhow::Result<String> {
            let share = classifier_accuracy(&classifier, kept, sigma, device)?;
            Ok(format!("{:.1} % with noise of {sigma}", share * 100.0))
        });
        let told = told.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        println!("of {} other pictures it tells {}", kept.len(), told.join(", "));
    }
    let most = classifier.description.classes.iter().max_by_key(|class| class.pictures);
    let class = most.map_or("all", |class| &class.name);
    let run = if args.data.path.is_some() { " --run RUN" } else { "" };
    println!("next: {}{run} --classifier {path} --class \"{class}\"", runs::program("sample"));
    Ok(ExitCode::SUCCESS)
}

/// The pictures to learn from, and the share of them that is kept for trying: where nobody said how many, none if that would leave a class
/// without pictures to learn from.
fn divided(
    all: ImageDataset,
    share: Option<f64>,
) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
    if share == Some(0.0) {
        return Ok((all, None));
    }
    let of =
        |set: &ImageDataset| (0..set.len()).filter_map(|i| set.label(i)).collect::<HashSet<u32>>();
    match (all.split(share.unwrap_or(KEPT)), share) {
        (Ok((training, kept)), None) if of(&training) == of(&all) => Ok((training, Some(kept))),
        (_, None) => {
            tracing::warn!(
                "some class has too few pictures to keep one for trying the classifier on; all are learnt from"
            );
            Ok((all, None))
        }
        (divided, Some(_)) => {
            let (training, kept) = divided?;
            for class in of(&all).difference(&of(&training)) {
                let name = &all.classes()[*class as usize];
                tracing::warn!(
                    "all pictures of {name} are kept for trying, and none is learnt from"
                );
            }
            Ok((training, Some(kept)))
        }
    }
}

/// What the bar counts up to.
const PARTS: u64 = 1000;
