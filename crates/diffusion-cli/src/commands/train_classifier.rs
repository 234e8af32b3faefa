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
use crate::args::numbers::{positive, whole};
use crate::args::runs;
use crate::session::interrupt;
use crate::session::progress::{Progress, clock};
use crate::session::usage::check_output;

/// Train a classifier of noisy pictures, for classifier guidance in `sample`
///
/// `sample --classifier FILE` adds the classifier's gradient to each sampling step, so that the
/// images follow a class (Dhariwal & Nichol 2021). The model itself may be unconditional. By
/// default one picture in ten is held out; at the end the command prints the accuracy on these
/// pictures at several noise levels. Pictures without a class are ignored.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion train-classifier --out digits.safetensors\n  \
                        diffusion sample --classifier digits.safetensors --class 7 --guidance 2\n  \
                        diffusion train-classifier --data pictures --size 32 --max-minutes 5",
          mut_arg("data", |arg| arg.display_order(0).help(
              "Pictures with classes to train on [default: 10,000 embedded digits]"
          ).long_help(
              "Pictures with classes to train on [default: 10,000 embedded digits]\n\n\
               Any source that `train --data` accepts. Classes come from the first level of folders, a \
               table of labels or the labels of a data file."
          )),
          mut_arg("validation", |arg| arg.help(
              "Share of the pictures that is held out to measure the accuracy, from 0 to below 1 \
               [default: 0.1]"
          ).long_help(
              "Share of the pictures that is held out to measure the accuracy, from 0 to below 1 \
               [default: 0.1]\n\n\
               0 trains on all pictures and prints no accuracy. By default nothing is held out if \
               that would leave a class without training pictures."
          )))]
pub(crate) struct TrainClassifierArgs {
    /// Write the classifier to this file
    ///
    /// After Ctrl-C, the unfinished classifier is written to a file with the ending
    /// .partial.safetensors instead.
    #[arg(long, value_name = "FILE", default_value = "classifier.safetensors")]
    out: PathBuf,
    /// Stop after M minutes; above 0 [default: 2, or no limit if --steps is given]
    ///
    /// The decay of the learning rate is planned to end at that time.
    #[arg(long, value_name = "M", value_parser = positive, allow_negative_numbers = true)]
    max_minutes: Option<f64>,
    /// Stop after N updates; at least 1 [default: no limit]
    ///
    /// If --max-minutes is given too, training ends at the first limit reached.
    #[arg(long, value_name = "N", value_parser = whole(1..))]
    steps: Option<u64>,
    /// Pictures per update; 1 to 65,536
    #[arg(long, value_name = "N", default_value = "128", value_parser = whole(1..=65_536))]
    batch_size: u64,
    /// Base learning rate; above 0
    ///
    /// The warm-up rises to this rate, and the decay falls from it.
    #[arg(long, value_name = "RATE", default_value = "0.002", value_parser = positive, allow_negative_numbers = true)]
    lr: f64,
    /// Seed of the weights, picture order, noise and noise levels; 0 to 2^63 - 1
    #[arg(long, value_name = "SEED", default_value = "0", value_parser = whole(..1 << 63))]
    seed: u64,
    #[command(flatten)]
    data: data::DataArgs,
}

/// Default share of the pictures that is held out to measure the accuracy.
const HELD_OUT_SHARE: f64 = 0.1;
/// Noise levels σ at which the accuracy is measured, for pictures in \[−1, 1\].
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
    // The held-out pictures are split off below, after those without a class are removed.
    let mut data = args.data.clone();
    data.pictures.validation = None;
    let (all, _) = data.load((None, PictureConfig::default()), quiet)?;
    let (training, held_out) = split(all.labelled()?, args.data.pictures.validation)?;
    let defaults = ClassifierConfig::default();
    let config = ClassifierConfig {
        batch_size: args.batch_size as usize,
        flip: pictures.flip,
        steps: args.steps,
        max_minutes: if args.steps.is_some() {
            args.max_minutes
        } else {
            args.max_minutes.or(defaults.max_minutes)
        },
        lr: args.lr,
        seed: args.seed,
        ..defaults
    };
    tracing::info!(
        "{} training pictures, {} held out to measure the accuracy, {} on {} threads",
        training.len(),
        held_out.as_ref().map_or(0, ImageDataset::len),
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
    // An unfinished classifier does not replace an existing file.
    let out =
        if interrupted { args.out.with_extension("partial.safetensors") } else { args.out.clone() };
    classifier.write(&out).context("--out")?;
    let path = runs::quoted(&out);
    println!(
        "{} steps in {}; {}",
        classifier.description.step,
        clock(start.elapsed().as_secs_f64()),
        if interrupted { format!("the unfinished classifier is in {path}") } else { path.clone() }
    );
    if interrupted {
        return Ok(ExitCode::from(interrupt::exit_code()));
    }
    if let Some(held_out) = &held_out {
        let accuracies = SIGMAS.map(|sigma| -> anyhow::Result<String> {
            let share = classifier_accuracy(&classifier, held_out, sigma, device)?;
            Ok(format!("{:.1} % at σ = {sigma}", share * 100.0))
        });
        let accuracies = accuracies.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        println!("accuracy on {} held-out pictures: {}", held_out.len(), accuracies.join(", "));
    }
    let largest = classifier.description.classes.iter().max_by_key(|class| class.pictures);
    let class = largest.map_or("all", |class| &class.name);
    let run = if args.data.path.is_some() { " --run RUN" } else { "" };
    println!("next: {}{run} --classifier {path} --class \"{class}\"", runs::program("sample"));
    Ok(ExitCode::SUCCESS)
}

/// The training pictures, and the held-out `share` of all pictures.
///
/// Without a `share` it is [`HELD_OUT_SHARE`], or nothing if that would leave a class without
/// training pictures.
fn split(
    all: ImageDataset,
    share: Option<f64>,
) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
    if share == Some(0.0) {
        return Ok((all, None));
    }
    let labels =
        |set: &ImageDataset| (0..set.len()).filter_map(|i| set.label(i)).collect::<HashSet<u32>>();
    match (all.split(share.unwrap_or(HELD_OUT_SHARE)), share) {
        (Ok((training, held_out)), None) if labels(&training) == labels(&all) => {
            Ok((training, Some(held_out)))
        }
        (_, None) => {
            tracing::warn!(
                "no pictures are held out, because a class has too few of them; the accuracy is not \
                 measured"
            );
            Ok((all, None))
        }
        (sets, Some(_)) => {
            let (training, held_out) = sets?;
            for class in labels(&all).difference(&labels(&training)) {
                let name = &all.classes()[*class as usize];
                tracing::warn!(
                    "all pictures of the class {name} are held out; the classifier cannot learn it"
                );
            }
            Ok((training, Some(held_out)))
        }
    }
}

/// The length of the progress bar.
const PARTS: u64 = 1000;
