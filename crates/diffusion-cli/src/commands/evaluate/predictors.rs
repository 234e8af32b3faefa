//! `diffusion evaluate predictors`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use diffusion_data::PictureConfig;
use diffusion_eval::{
    BaselineCheck, Estimate, PredictionError, Predictor, PredictorErrors, PredictorEvaluation,
    tutorial_images,
};
use diffusion_model::{LoadedModel, Objective, Weights};
use diffusion_process::NoiseLevel;
use diffusion_report::predictor_chart;
use serde_json::{Value, json};

use super::pictures::of_model;
use super::{TIMESTEP, as_object, axis, continuous_levels, with_error};
use crate::args::data;
use crate::args::numbers::whole;
use crate::args::runs::ModelArgs;
use crate::args::schedules;
use crate::session::interrupt;
use crate::session::usage::{CHARTS, bail_usage, check_picture};

/// Default number of pictures of a data set to evaluate on.
const PICTURES: usize = 200;

/// Measure noise-prediction errors by timestep, for baselines and a model
///
/// Three baselines are measured: zero predicts no noise, random predicts independent noise, and
/// perfect predicts the true noise. --run or --checkpoint adds a trained model. Two errors are
/// shown. The first is the mean squared error (MSE) in epsilon, which is 1 for zero and 2 for
/// random at every timestep. The second is in image scale, multiplied by 1 − alpha_cumprod, which
/// grows with t. Both have a standard error over the images; every image is evaluated at up to 8
/// timesteps per bin.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion evaluate predictors --plot predictors.png\n  \
                        diffusion evaluate predictors --run runs/mnist-1 --bins 10",
          mut_arg("run", |arg| arg.help(
              "Add the model of the run in this folder, by its newest checkpoint [default: no model]"
          ).long_help(
              "Add the model of the run in this folder, by its newest checkpoint [default: no model]"
          )),
          mut_arg("checkpoint", |arg| arg.help(
              "Add the model of the checkpoint in this folder [default: no model]"
          ).long_help(
              "Add the model of the checkpoint in this folder [default: no model]"
          )),
          mut_arg("data", |arg| arg.display_order(2).help(
              "Pictures to evaluate on [default: the model's training set, else 50 synthetic images \
               of 1×32×32]"
          ).long_help(
              "Pictures to evaluate on [default: the model's training set, else 50 synthetic images \
               of 1×32×32]\n\n\
               Any source that `train --data` accepts. Pixels of the synthetic images are standard \
               normal numbers, clipped to [-1, 1]."
          )),
          mut_arg("limit", |arg| arg.help(
              "Use only N pictures, at least 1, chosen by a hash of their names [default: 200]"
          ).long_help(
              "Use only N pictures, at least 1, chosen by a hash of their names [default: 200]"
          )))]
pub(crate) struct PredictorsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Noise schedule without a model: linear, cosine, sigmoid, scaled-linear or a file
    ///
    /// A file is a TOML file with a table `[schedule]`, the folder of a run or of a model of
    /// Python's diffusers, or a scheduler_config.json. A model has its own schedule.
    #[arg(long, value_name = "NAME", default_value = "linear", conflicts_with_all = ["run", "checkpoint"])]
    schedule: String,
    /// Number of timesteps T of a named schedule; 1 to 1,000,000
    ///
    /// Files and models have their own number of timesteps.
    #[arg(long, value_name = "T", default_value = "200", conflicts_with_all = ["run", "checkpoint"], value_parser = whole(1..=1_000_000))]
    timesteps: u64,
    /// Bins of equal size to divide the timesteps into; 1 to 1000 [default: 4]
    ///
    /// N cannot exceed the number of timesteps; the default is lowered to that number.
    #[arg(long, value_name = "N", value_parser = whole(1..=1000))]
    bins: Option<u64>,
    /// Seed of the synthetic images and the noise; 0 to 2^64 - 1
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Also write the errors as a chart over the timesteps, PNG or SVG by the file's ending
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object instead of the tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: data::DataArgs,
}

pub(super) fn run(args: &PredictorsArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    if let Some(path) = &args.plot {
        check_picture("--plot", path, &CHARTS)?;
    }
    let model = match args.model.named()? {
        Some(path) => Some((path.clone(), LoadedModel::open(&path, Weights::Ema, device)?)),
        None => None,
    };
    let levels = levels(args, model.as_ref().map(|(_, model)| model))?;
    let bins = args.bins.map_or(4.min(levels.len()), |bins| bins as usize);
    if bins > levels.len() {
        bail_usage!("--bins {bins} is too large: there are {} timesteps", levels.len());
    }
    let images = images(args, model.as_ref(), device, quiet)?;
    let evaluation = PredictorEvaluation::new(&images, levels, bins, args.seed)?;
    let mut predictors = vec![
        ("zero".to_owned(), Predictor::Zero),
        ("random".to_owned(), Predictor::Random),
        ("perfect".to_owned(), Predictor::Perfect),
    ];
    if let Some((_, model)) = &model {
        predictors.push((format!("step {}", model.step), Predictor::Model(&model.denoiser)));
    }
    let (mut errors, mut expected) = (Vec::new(), Vec::new());
    for (name, predictor) in predictors {
        if interrupt::flow().is_break() {
            return Ok(ExitCode::from(interrupt::exit_code()));
        }
        errors.push((name, evaluation.errors(&predictor)?));
        expected.push(predictor.expected_error());
    }
    if let Some(path) = &args.plot {
        let x = model.as_ref().map_or(TIMESTEP, |(_, model)| axis(model));
        predictor_chart(&errors, x).write(path)?;
    }
    if args.json {
        println!("{:#}", as_json(&errors, images.dim(0)?));
    } else {
        if let Some((path, model)) = &model {
            println!("step {}: {}", model.step, path.display());
        }
        print_table(&errors, images.dims());
        print_checks(&errors, &expected);
        if let Some(path) = &args.plot {
            println!("plot: {}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All noise levels of the schedule or of the model's process, the cleanest first.
fn levels(args: &PredictorsArgs, model: Option<&LoadedModel>) -> anyhow::Result<Vec<NoiseLevel>> {
    let named;
    let schedule = match model.map(|model| &model.objective) {
        None => {
            named = schedules::named(&args.schedule, args.timesteps as usize)?.1;
            &named
        }
        Some(Objective::Diffusion { schedule, .. }) => schedule,
        Some(objective) => return Ok(continuous_levels(objective)),
    };
    // Levels without signal are left out: there, x_t is the noise itself.
    let with_signal =
        (0..schedule.len()).map(|t| schedule.level(t)).filter(|level| level.signal > 0.0);
    Ok(with_signal.collect())
}

fn images(
    args: &PredictorsArgs,
    model: Option<&(PathBuf, LoadedModel)>,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<Tensor> {
    let dataset = match model {
        Some((checkpoint, model)) => {
            let adapt = |config: &mut PictureConfig| {
                config.validation = 0.0;
                config.limit = config.limit.or(Some(PICTURES));
            };
            of_model(&args.data, Some(checkpoint), model, adapt, quiet)?.0
        }
        None if args.data.path.is_some() => {
            let config = PictureConfig { limit: Some(PICTURES), ..PictureConfig::default() };
            args.data.load((None, config), quiet)?.0
        }
        None => {
            if let Some(flag) = args.data.pictures.apply(&mut None, &mut PictureConfig::default()) {
                bail_usage!(
                    "{flag} is for pictures of --data; the synthetic images have no settings"
                );
            }
            return Ok(tutorial_images(args.seed, device)?);
        }
    };
    let all: Vec<usize> = (0..dataset.len()).collect();
    Ok(dataset.images(&all, device)?)
}

fn print_table(errors: &[(String, PredictorErrors)], shape: &[usize]) {
    println!(
        "{} images of {}×{}×{}; mean ± standard error",
        shape[0], shape[1], shape[2], shape[3]
    );
    let heading = |title: &str| {
        println!("\n{title}");
        let names: Vec<String> = errors.iter().map(|(name, _)| format!(" {name:>19}")).collect();
        println!("{:>11}{}", "t", names.concat());
    };
    let row = |name: &str, of: &dyn Fn(&PredictorErrors) -> Estimate| {
        let cells: Vec<String> =
            errors.iter().map(|(_, errors)| format!(" {:>19}", with_error(of(errors)))).collect();
        println!("{name:>11}{}", cells.concat());
    };
    let Some((_, first)) = errors.first() else { return };
    for image_scale in [false, true] {
        heading(if image_scale {
            "in the image's own scale, (1 - alpha_cumprod) * MSE"
        } else {
            "in epsilon, MSE"
        });
        let scale = |error: &PredictionError| if image_scale { error.image } else { error.noise };
        for (i, bin) in first.bins.iter().enumerate() {
            let name = format!("{}-{}", bin.levels.0, bin.levels.1);
            row(&name, &|errors| scale(&errors.bins[i].error));
        }
        row("all", &|errors| scale(&errors.overall));
    }
}

/// Prints the measured error of each baseline next to its expected error.
fn print_checks(errors: &[(String, PredictorErrors)], expected: &[Option<f64>]) {
    println!();
    for ((name, errors), expected) in errors.iter().zip(expected) {
        if let Some(expected) = expected {
            println!("{}", check(name, &BaselineCheck::new(errors, *expected)));
        }
    }
    if let Some((name, errors)) = errors.first()
        && let [first, .., last] = errors.bins.as_slice()
    {
        let [from, to] = [first, last].map(|bin| with_error(bin.error.image));
        println!("{name}'s error in the image's scale goes from {from} to {to}");
    }
}

/// The measured and the expected error of the baseline `name`, as text.
fn check(name: &str, check: &BaselineCheck) -> String {
    let expected = check.expected;
    if check.is_exact() {
        return format!("check: {name} is exactly {expected} in all bins");
    }
    let difference = match (check.deviation, check.largest_deviation) {
        (Some(overall), Some(largest)) => {
            format!("{overall:.1} standard errors away, at most {largest:.1} in a bin")
        }
        _ => format!("up to {:.4} away in a bin", check.largest_difference),
    };
    format!(
        "check: {name} in epsilon is {}, expected {expected}: {difference}",
        with_error(check.measured)
    )
}

fn as_json(errors: &[(String, PredictorErrors)], images: usize) -> Value {
    let error =
        |e: &PredictionError| json!({ "epsilon": as_object(e.noise), "image": as_object(e.image) });
    let predictors: Vec<Value> = errors
        .iter()
        .map(|(name, errors)| {
            let bins: Vec<Value> = errors
                .bins
                .iter()
                .map(|bin| json!({ "first": bin.levels.0, "last": bin.levels.1, "error": error(&bin.error) }))
                .collect();
            json!({ "name": name, "overall": error(&errors.overall), "bins": bins })
        })
        .collect();
    json!({ "images": images, "predictors": predictors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_reports_measured_errors_of_correct_and_wrong_predictors() {
        let measured = |mean: f64, standard_error: f64| {
            let error = Estimate { mean, standard_error };
            let error = PredictionError { noise: error, image: error };
            let bins = vec![diffusion_eval::ErrorBin { levels: (0, 9), error }];
            PredictorErrors { overall: error, bins }
        };
        let line = |name, errors, expected| check(name, &BaselineCheck::new(&errors, expected));
        assert_eq!(
            line("zero", measured(0.999, 0.002), 1.0),
            "check: zero in epsilon is 0.9990 ± 0.0020, expected 1: 0.5 standard errors away, at most 0.5 in a bin"
        );
        assert_eq!(
            line("zero", measured(0.75, 0.005), 1.0),
            "check: zero in epsilon is 0.7500 ± 0.0050, expected 1: 50.0 standard errors away, at most 50.0 in a bin"
        );
        assert_eq!(
            line("perfect", measured(0.0, 0.0), 0.0),
            "check: perfect is exactly 0 in all bins"
        );
        assert_eq!(
            line("perfect", measured(0.25, 0.0), 0.0),
            "check: perfect in epsilon is 0.2500 ± 0.0000, expected 0: up to 0.2500 away in a bin"
        );
        assert_eq!(
            line("random", measured(1.5, f64::NAN), 2.0),
            "check: random in epsilon is 1.5000 ± -, expected 2: up to 0.5000 away in a bin"
        );
    }
}
