//! `diffusion evaluate model`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use candle_core::Device;
use diffusion_data::ImageDataset;
use diffusion_eval::{Bound, Estimate, ModelErrors, ModelEvaluation, ModelLoss, VariationalBound};
use diffusion_model::{LoadedModel, Objective, Weights};
use diffusion_report::model_chart;
use diffusion_sample::VarianceType;
use serde_json::{Value, json};

use super::pictures::of_model;
use super::{CONTINUOUS_LEVELS, as_object, axis, continuous_levels, with_error};
use crate::args::data;
use crate::args::numbers::whole;
use crate::args::one_of;
use crate::args::runs::{FoundModel, ModelArgs, program};
use crate::args::sampling::variance;
use crate::session::interrupt;
use crate::session::progress::Progress;
use crate::session::usage::{CHARTS, bail_usage, check_picture};

/// Measure a model's losses by noise level and its variational bound
///
/// The losses are mean squared errors of the predicted noise, image and velocity. The variational
/// bound (Ho et al. 2020) is an upper bound on -log2 p(x0), in bits per dimension; its reverse
/// process visits all timesteps and clips x0 to [-1, 1]. It has three parts. L_T: the signal left
/// at the last timestep. L_t: one term for each denoising step. L_0: the last step, to 256 grey
/// levels. L_T is exact. The others are unbiased estimates from a few random timesteps of each
/// picture, and the standard errors cover this estimation too. Models of flows and EDM have losses
/// only.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion evaluate model --run runs/mnist-1\n  \
                        diffusion evaluate model --run runs/mnist-1 --num 1000 --bins 20 --plot model.png",
          mut_arg("data", |arg| arg.display_order(2).help(
              "Pictures to evaluate on [default: the run's validation set, else its training set]"
          ).long_help(
              "Pictures to evaluate on [default: the run's validation set, else its training set]\n\n\
               Any source that `train --data` accepts. The default for the model that comes with the \
               program: the embedded digits that it was trained on."
          )))]
pub(crate) struct ModelEvaluationArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Evaluate on N of the pictures; at least 1
    ///
    /// More pictures give smaller standard errors and take longer.
    #[arg(long, value_name = "N", default_value = "256", value_parser = whole(1..))]
    num: u64,
    /// Bins of equal size to divide the timesteps into; 1 to 1000 [default: 10]
    ///
    /// N cannot exceed the number of timesteps; the default is lowered to that number. Models of
    /// flows and EDM are evaluated at 1000 noise levels.
    #[arg(long, value_name = "N", value_parser = whole(1..=1000))]
    bins: Option<u64>,
    /// Random timesteps per bin and picture; at least 1
    ///
    /// More timesteps give smaller standard errors; the time grows in proportion.
    #[arg(long, value_name = "N", default_value = "4", value_parser = whole(1..))]
    looks: u64,
    /// Variance of the bound's reverse steps [default: learned-range if the model has learned it,
    /// else fixed-small]
    #[arg(long, value_name = "VARIANCE", value_parser = one_of(VarianceType::ALL, VarianceType::name))]
    variance: Option<VarianceType>,
    /// Seed of the noise and timesteps; 0 to 2^64 - 1
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Also write losses and bits as a chart over the timesteps, PNG or SVG by the file's ending
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object instead of the tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: data::DataArgs,
}

pub(super) fn run(
    args: &ModelEvaluationArgs,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    if let Some(path) = &args.plot {
        check_picture("--plot", path, &CHARTS)?;
    }
    let found = args.model.open(Weights::Ema, device)?;
    let model = &found.model;
    let bound = bound(args, model)?;
    let levels = bound.map_or(CONTINUOUS_LEVELS, |bound| bound.schedule().len());
    let bins = args.bins.map_or(10.min(levels), |bins| bins as usize);
    if bins > levels {
        bail_usage!("--bins {bins} is too large: there are {levels} timesteps");
    }
    let (dataset, description) = pictures(args, &found, quiet)?;
    let all: Vec<usize> = (0..dataset.len()).collect();
    let images = dataset.images(&all, device)?;

    let (looks, seed) = (args.looks as usize, args.seed);
    let evaluation = match bound {
        Some(bound) => ModelEvaluation::of_bound(&images, bound, bins, looks, seed)?,
        None => ModelEvaluation::of_levels(
            &images,
            continuous_levels(&model.objective),
            bins,
            looks,
            seed,
        )?,
    };
    let mut progress = Progress::new("evaluating", 100, quiet);
    let errors = evaluation.errors(&model.denoiser, &mut |done, all| {
        let percent = 100 * done / all;
        progress.advance(percent as u64, || format!("{percent} %"));
        interrupt::flow()
    });
    progress.finish();
    let errors = errors.map_err(|error| {
        if model.description.network.supports_unconditional() {
            anyhow::Error::from(error)
        } else {
            anyhow!(
                "{error}; this command predicts without classes, so the model must be trained with \
                 class_dropout above 0"
            )
        }
    });
    let Some(errors) = errors? else { return Ok(ExitCode::from(interrupt::exit_code())) };

    if let Some(path) = &args.plot {
        model_chart(&errors, axis(model)).write(path)?;
    }
    if args.json {
        println!("{:#}", as_json(&errors, model.step, &description, images.dim(0)?));
        return Ok(ExitCode::SUCCESS);
    }
    match &found.checkpoint {
        Some(checkpoint) => println!("step {}: {}", model.step, checkpoint.display()),
        None => println!("{}", found.name()),
    }
    println!("{description}; mean ± standard error\n");
    print_table(&errors);
    println!();
    match &errors.bound {
        Some(bound) => print_bound(bound),
        None => println!(
            "no bits/dim: the bound is a sum over the steps of a schedule; {} models have no schedule",
            process_name(&model.objective)
        ),
    }
    if let Some(path) = &args.plot {
        println!("plot: {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The name of the process before "models".
fn process_name(objective: &Objective) -> &'static str {
    if matches!(objective, Objective::Edm(_)) { "EDM" } else { objective.name() }
}

/// The variational bound along the model's schedule; `None` if it has no schedule.
fn bound<'a>(
    args: &ModelEvaluationArgs,
    model: &'a LoadedModel,
) -> anyhow::Result<Option<VariationalBound<'a>>> {
    let Some(schedule) = model.objective.schedule() else {
        if args.variance.is_some() {
            let process = process_name(&model.objective);
            bail_usage!("--variance sets the bound's variance; {process} models have no bound");
        }
        return Ok(None);
    };
    Ok(Some(VariationalBound::new(schedule, variance(args.variance, model)?)))
}

/// The pictures to evaluate on, and their description.
fn pictures(
    args: &ModelEvaluationArgs,
    FoundModel { model, checkpoint, .. }: &FoundModel,
    quiet: bool,
) -> anyhow::Result<(ImageDataset, String)> {
    let data = args.data.path.as_ref();
    if data.is_none() && args.data.pictures.validation.is_some() {
        bail_usage!("--validation needs --data: the run's own pictures are already split");
    }
    let (training, held_out) = of_model(&args.data, checkpoint.as_deref(), model, |_| {}, quiet)?;
    let from = match (data, &held_out) {
        (None, Some(_)) => "pictures that the run kept out of training".to_owned(),
        (None, None) if checkpoint.is_none() => {
            "embedded digits that the model was trained on (use --data for others)".to_owned()
        }
        (None, None) => format!(
            "pictures that the model was trained on (no validation set; `{}` makes one)",
            program("train --validation SHARE")
        ),
        (Some(path), Some(_)) => format!("pictures of {} held out by --validation", path.display()),
        (Some(path), None) => format!("pictures of {}", path.display()),
    };
    let all = held_out.unwrap_or(training);
    let chosen = all.limited(args.num as usize)?;
    let [channels, height, width] = chosen.image_shape();
    let description = format!(
        "{} images of {channels}×{height}×{width}, of the {} {from}",
        chosen.len(),
        all.len()
    );
    Ok((chosen, description))
}

fn print_table(errors: &ModelErrors) {
    let row = |name: &str, cells: [String; 4]| {
        let [noise, x0, velocity, bits] = cells;
        let line = format!("{name:>11} {noise:>19} {x0:>19} {velocity:>19} {bits:>19}");
        println!("{}", line.trim_end());
    };
    let with_bits = |loss: &ModelLoss, bits: Option<Estimate>| {
        let [noise, x0, velocity] = [loss.noise, loss.x0, loss.velocity].map(with_error);
        [noise, x0, velocity, bits.map_or_else(String::new, with_error)]
    };
    let bits = if errors.bound.is_some() { "bits/dim" } else { "" };
    row("t", ["MSE of epsilon", "MSE of x0", "MSE of v", bits].map(str::to_owned));
    for bin in &errors.bins {
        row(&format!("{}-{}", bin.levels.0, bin.levels.1), with_bits(&bin.loss, bin.bits));
    }
    row("all", with_bits(&errors.overall, None));
}

fn print_bound(bound: &Bound) {
    println!("variational bound, in bits/dim");
    for (name, meaning, estimate) in [
        ("L_T", "signal left at the last timestep", bound.prior),
        ("sum of L_t", "reverse steps", bound.steps),
        ("L_0", "decoder to 256 grey levels (t = 0 above)", bound.decoder),
        ("total", "upper bound on the bits per dimension", bound.total),
    ] {
        println!("{name:>11} {:>19}  {meaning}", with_error(estimate));
    }
}

fn as_json(errors: &ModelErrors, step: u64, description: &str, images: usize) -> Value {
    let loss = |loss: &ModelLoss| json!({ "epsilon": as_object(loss.noise), "x0": as_object(loss.x0), "v": as_object(loss.velocity) });
    let bins: Vec<Value> = errors
        .bins
        .iter()
        .map(|bin| {
            let (first, last) = bin.levels;
            json!({ "first": first, "last": last, "error": loss(&bin.loss), "bits": bin.bits.map(as_object) })
        })
        .collect();
    let bound = errors.bound.map(|bound| {
        json!({
            "prior": as_object(bound.prior),
            "steps": as_object(bound.steps),
            "decoder": as_object(bound.decoder),
            "total": as_object(bound.total),
        })
    });
    json!({
        "step": step,
        "images": images,
        "pictures": description,
        "overall": loss(&errors.overall),
        "bins": bins,
        "bits_per_dimension": bound,
    })
}
