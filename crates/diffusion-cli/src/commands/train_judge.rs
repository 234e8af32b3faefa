//! `diffusion train-judge`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use candle_core::Device;
use diffusion_eval::JudgeTask;
use diffusion_train::{JudgeTraining, train_judge};

use super::fit::{self, FitArgs, FitProgress};
use crate::args::numbers::positive;
use crate::args::runs;
use crate::session::interrupt;
use crate::session::usage::check_output;

/// Train a judge, a classifier whose features measure the quality of images
///
/// With `--judge FILE`, `evaluate samples`, `evaluate grid`, `evaluate guidance` and `train
/// --eval-every` measure the Fréchet distance, precision, recall and coverage in the judge's
/// features, and how often images have the class that they should have. The judge learns the
/// classes of the pictures. Pictures without classes are rotated, and it learns by how many quarter
/// turns (Gidaris et al. 2018). By default one picture in ten is held out; at the end the command
/// prints the accuracy on these pictures.
///
/// Train the judge on pictures of the same kind, size and channels as those of the model. Every
/// judge has a name of its own, which all metrics repeat: metrics by different judges cannot be
/// compared.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion train-judge --data cifar10 --flip\n  \
                        diffusion evaluate samples --run runs/cifar10-1 --judge judge.safetensors --against cifar10\n  \
                        diffusion train-judge --data photos --size 64 --flip --max-minutes 30",
          mut_arg("data", |arg| arg.display_order(0).help(
              "Pictures to train on [default: 10,000 embedded digits]"
          ).long_help(
              "Pictures to train on [default: 10,000 embedded digits]\n\n\
               Any source that `train --data` accepts. Classes come from the first level of folders, a \
               table of labels or the labels of a data file. They are optional."
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
pub(crate) struct TrainJudgeArgs {
    /// Write the judge to this file
    ///
    /// After Ctrl-C, the unfinished judge is written to a file with the ending .partial.safetensors
    /// instead.
    #[arg(long, value_name = "FILE", default_value = "judge.safetensors")]
    out: PathBuf,
    /// Learn rotations even if the pictures have classes
    #[arg(long)]
    rotations: bool,
    /// Stop after M minutes; above 0 [default: 10, or no limit if --steps is given]
    ///
    /// The decay of the learning rate is planned to end at that time.
    #[arg(long, value_name = "M", value_parser = positive, allow_negative_numbers = true)]
    max_minutes: Option<f64>,
    #[command(flatten)]
    fit: FitArgs,
}

pub(crate) fn run(args: &TrainJudgeArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    check_output("--out", &args.out)?;
    let (all, flip) = args.fit.pictures(quiet)?;
    let (training, held_out) = fit::split(all, args.fit.data.pictures.validation)?;
    let defaults = JudgeTraining::default();
    let config = JudgeTraining {
        rotations: args.rotations,
        batch_size: args.fit.batch_size as usize,
        flip,
        steps: args.fit.steps,
        max_minutes: args.fit.minutes(args.max_minutes, defaults.max_minutes),
        lr: args.fit.lr,
        seed: args.fit.seed,
        ..defaults
    };
    let name = match &args.fit.data.path {
        Some(path) => {
            // A path such as `.` has no name of its own.
            let full = path.canonicalize().unwrap_or_else(|_| path.clone());
            full.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
        }
        None => "digits".to_owned(),
    };
    let mut progress = FitProgress::new(&args.fit, &training, held_out.as_ref(), device, quiet);
    let mut show = |step: &_| progress.show(step);
    let judge = train_judge(&config, &name, &training, held_out.as_ref(), device, &mut show)?;
    let interrupted = progress.interrupted;
    let (duration, out) = progress.finish(&args.out);
    judge.write(&out).context("--out")?;
    let (path, description) = (runs::quoted(&out), judge.description());
    println!(
        "{} steps in {duration}; the {}{} is in {path}",
        description.step,
        if interrupted { "unfinished " } else { "" },
        description.name
    );
    if let Some(accuracy) = description.accuracy {
        let what = match &description.task {
            JudgeTask::Classes(names) => format!("for {} classes", names.len()),
            JudgeTask::Rotations => "for the four rotations".to_owned(),
        };
        println!(
            "accuracy on {} held-out pictures: {:.1} % {what}",
            description.held_out,
            accuracy * 100.0
        );
    }
    if interrupted {
        return Ok(ExitCode::from(interrupt::exit_code()));
    }
    println!("next: {} --judge {path}", runs::program("evaluate samples --run RUN"));
    Ok(ExitCode::SUCCESS)
}
