//! `diffusion train-classifier`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use candle_core::Device;
use diffusion_train::{ClassifierConfig, classifier_accuracy, train_classifier};

use super::fit::{self, FitArgs, FitProgress};
use crate::args::numbers::positive;
use crate::args::runs;
use crate::session::interrupt;
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
    #[command(flatten)]
    fit: FitArgs,
}

/// Noise levels σ at which the accuracy is measured, for pictures in \[−1, 1\].
const SIGMAS: [f64; 5] = [0.0, 0.3, 1.0, 3.0, 10.0];

pub(crate) fn run(
    args: &TrainClassifierArgs,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    check_output("--out", &args.out)?;
    let (all, flip) = args.fit.pictures(quiet)?;
    let (training, held_out) = fit::split(all.labelled()?, args.fit.data.pictures.validation)?;
    let defaults = ClassifierConfig::default();
    let config = ClassifierConfig {
        batch_size: args.fit.batch_size as usize,
        flip,
        steps: args.fit.steps,
        max_minutes: args.fit.minutes(args.max_minutes, defaults.max_minutes),
        lr: args.fit.lr,
        seed: args.fit.seed,
        ..defaults
    };
    let mut progress = FitProgress::new(&args.fit, &training, held_out.as_ref(), device, quiet);
    let classifier = train_classifier(&config, &training, device, &mut |step| progress.show(step))?;
    let interrupted = progress.interrupted;
    let (duration, out) = progress.finish(&args.out);
    classifier.write(&out).context("--out")?;
    let path = runs::quoted(&out);
    println!(
        "{} steps in {duration}; {}",
        classifier.description.step,
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
    let run = if args.fit.data.path.is_some() { " --run RUN" } else { "" };
    println!("next: {}{run} --classifier {path} --class \"{class}\"", runs::program("sample"));
    Ok(ExitCode::SUCCESS)
}
