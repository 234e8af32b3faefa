//! `diffusion evaluate model`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use diffusion_data::ImageDataset;
use diffusion_eval::{Bound, Estimate, ModelErrors, ModelEvaluation, ModelLoss, VariationalBound};
use diffusion_model::{LoadedModel, Weights};
use diffusion_report::model_chart;
use diffusion_sample::VarianceType;
use serde_json::{Value, json};

use super::pictures::of_model;
use super::{CONTINUOUS, as_object, axis, continuous_levels, with_error};
use crate::args::data;
use crate::args::one_of;
use crate::args::runs::{FoundModel, ModelArgs, program};
use crate::args::sampling::variance;
use crate::session::interrupt;
use crate::session::progress::Progress;
use crate::session::usage::{CHARTS, bail_usage, check_picture};

/// Measure a model on pictures: its losses by noise level, and the bits a dimension that its variational bound gives
///
/// The losses are mean squares of what is wrong with the predicted noise, picture and velocity. The bound is that of Ho et al. 2020
/// on -log2 p(x0), of a reverse process along all timesteps with x0 cut to [-1, 1]: L_T, what is left of the pictures at the last
/// timestep; L_t, a term for each step; L_0, which decodes to 256 grey levels. L_T is exact, the terms are seen at a few timesteps of each
/// picture, drawn so that sums are unbiased; the standard errors hold what that adds. Flows and EDM have losses only.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion evaluate model --run runs/mnist-1\n  \
                        diffusion evaluate model --run runs/mnist-1 --num 1000 --bins 20 --plot model.png",
          mut_arg("data", |arg| arg.help(
              "The pictures: whatever --data of train understands [default: those that the run kept out of training, or if there are \
               none, those that it was trained on; without a run, the digits that come with the program, as its model]"
          )))]
pub(crate) struct ModelEvaluationArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: data::DataArgs,
    /// Take N of these pictures
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u64).range(1..))]
    num: u64,
    /// Into how many parts of one size the timesteps are divided [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    bins: Option<u64>,
    /// At how many timesteps of each part each picture is looked at; the time it takes grows with it
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u64).range(1..))]
    looks: u64,
    /// The variance of the bound's steps [default: learned-range if the model has learned one, else fixed-small]
    #[arg(long, value_name = "VARIANCE", value_parser = one_of(VarianceType::ALL, VarianceType::name))]
    variance: Option<VarianceType>,
    /// The seed of noise and timesteps
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Draw losses and bits against the timestep into a PNG or SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
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
    let levels = bound.map_or(CONTINUOUS, |bound| bound.schedule().len());
    let bins = args.bins.map_or(10.min(levels), |bins| bins as usize);
    if bins > levels {
        bail_usage!("--bins {bins}: there are {levels} timesteps");
    }
    let (dataset, which) = pictures(args, &found, quiet)?;
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
    let mut progress = Progress::new("looking", 100, quiet);
    let errors = evaluation.errors(&model.denoiser, &mut |done, all| {
        let percent = 100 * done / all;
        progress.advance(percent as u64, || format!("{percent} %"));
        interrupt::flow()
    });
    progress.finish();
    let Some(errors) = errors? else { return Ok(ExitCode::from(interrupt::EXIT_CODE)) };

    if let Some(path) = &args.plot {
        model_chart(&errors, axis(model)).write(path)?;
    }
    if args.json {
        println!("{:#}", as_json(&errors, model.step, &which, images.dim(0)?));
        return Ok(ExitCode::SUCCESS);
    }
    match &found.checkpoint {
        Some(checkpoint) => println!("step {}: {}", model.step, checkpoint.display()),
        None => println!("{}", found.name()),
    }
    println!("{which}; mean ± standard error\n");
    print_table(&errors);
    println!();
    match &errors.bound {
        Some(bound) => print_bound(bound),
        None => println!(
            "no bits/dim: the bound is a sum over the steps of a schedule, and a model of {} has none",
            model.objective.name()
        ),
    }
    if let Some(path) = &args.plot {
        println!("plot: {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The bound along the model's schedule; none without one.
fn bound<'a>(
    args: &ModelEvaluationArgs,
    model: &'a LoadedModel,
) -> anyhow::Result<Option<VariationalBound<'a>>> {
    let Some(schedule) = model.objective.schedule() else {
        if args.variance.is_some() {
            let process = model.objective.name();
            bail_usage!("--variance is for the bound, which a model of {process} has none of");
        }
        return Ok(None);
    };
    Ok(Some(VariationalBound::new(schedule, variance(args.variance, model)?)))
}

/// The pictures, and which they are in words.
fn pictures(
    args: &ModelEvaluationArgs,
    FoundModel { model, checkpoint }: &FoundModel,
    quiet: bool,
) -> anyhow::Result<(ImageDataset, String)> {
    let data = args.data.path.as_ref();
    if data.is_none() && args.data.pictures.validation.is_some() {
        bail_usage!("--validation divides the pictures of --data; the run has divided its own");
    }
    let (training, held_out) = of_model(&args.data, checkpoint.as_deref(), model, |_| {}, quiet)?;
    let from = match (data, &held_out) {
        (None, Some(_)) => "pictures that the run kept out of training".to_owned(),
        (None, None) if checkpoint.is_none() => {
            "digits that come with the program and that the model was trained on (--data names others)"
                .to_owned()
        }
        (None, None) => format!(
            "pictures that the model was trained on, since none were kept out (by `{}`)",
            program("train --validation SHARE")
        ),
        (Some(path), Some(_)) => format!("pictures of {} that --validation divides off", path.display()),
        (Some(path), None) => format!("pictures of {}", path.display()),
    };
    let all = held_out.unwrap_or(training);
    let chosen = all.limited(args.num as usize)?;
    let [channels, height, width] = chosen.image_shape();
    let which = format!(
        "{} images of {channels}×{height}×{width}, of the {} {from}",
        chosen.len(),
        all.len()
    );
    Ok((chosen, which))
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
    for (name, what, estimate) in [
        ("L_T", "what is left of the pictures at the last timestep", bound.prior),
        ("sum of L_t", "the steps", bound.steps),
        ("L_0", "the decoder to 256 grey levels, at t = 0 above", bound.decoder),
        ("total", "at most so many bits a dimension code the pictures", bound.total),
    ] {
        println!("{name:>11} {:>19}  {what}", with_error(estimate));
    }
}

fn as_json(errors: &ModelErrors, step: u64, which: &str, images: usize) -> Value {
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
        "pictures": which,
        "overall": loss(&errors.overall),
        "bins": bins,
        "bits_per_dimension": bound,
    })
}
