//! `diffusion evaluate predictors`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use diffusion_data::PictureConfig;
use diffusion_eval::{
    BaselineCheck, Estimate, PredictionError, Predictor, PredictorErrors, PredictorEvaluation,
    lesson_images,
};
use diffusion_model::{LoadedModel, Objective, Weights};
use diffusion_process::NoiseLevel;
use diffusion_report::predictor_chart;
use serde_json::{Value, json};

use super::pictures::of_model;
use super::{TIMESTEP, as_object, axis, continuous_levels, with_error};
use crate::args::data;
use crate::args::runs::ModelArgs;
use crate::args::schedules;
use crate::session::interrupt;
use crate::session::usage::{CHARTS, bail_usage, check_picture};

/// Pictures of a set that are looked at, unless --limit says otherwise.
const PICTURES: usize = 200;

/// Measure how well predictors tell the noise in an image, by timestep
///
/// zero says that there is no noise, random draws other noise, perfect knows it; --run adds a trained model. Two errors are given:
/// the mean square in epsilon, which is 1 for zero and 2 for random at every timestep, and the same in the image's own scale,
/// times 1 − alpha_cumprod, which grows with t. Each has its standard error over the images, every one of which is looked at with the
/// noise of eight timesteps in each bin.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion evaluate predictors --plot predictors.png\n  \
                        diffusion evaluate predictors --run runs/mnist-1 --bins 10",
          mut_arg("data", |arg| arg.help(
              "The pictures: whatever --data of train understands [default: those that the model was trained on; without a model, 50 \
               synthetic images of 1×32×32]"
          )))]
pub(crate) struct PredictorsArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: data::DataArgs,
    /// Without a model: linear, cosine, sigmoid, scaled-linear, or a file that `schedule compare` understands
    #[arg(long, value_name = "NAME", default_value = "linear", conflicts_with_all = ["run", "checkpoint"])]
    schedule: String,
    /// Without a model: the schedule's number of steps, if it has a name
    #[arg(long, value_name = "T", default_value = "200", conflicts_with_all = ["run", "checkpoint"], value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    timesteps: u64,
    /// Into how many parts of one size the timesteps are divided [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    bins: Option<u64>,
    /// The seed of images and noise
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Draw the errors against the timestep into a PNG or SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
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
        bail_usage!("--bins {bins}: there are {} timesteps", levels.len());
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
            return Ok(ExitCode::from(interrupt::EXIT_CODE));
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

/// All levels of the schedule, or of a model's process, from the cleanest on.
fn levels(args: &PredictorsArgs, model: Option<&LoadedModel>) -> anyhow::Result<Vec<NoiseLevel>> {
    let own;
    let schedule = match model.map(|model| &model.objective) {
        None => {
            own = schedules::named(&args.schedule, args.timesteps as usize)?.1;
            &own
        }
        Some(Objective::Diffusion { schedule, .. }) => schedule,
        Some(objective) => return Ok(continuous_levels(objective)),
    };
    // An end without signal has nothing to tell noise from, for ε; the step before it has.
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
            let usual = PictureConfig { limit: Some(PICTURES), ..PictureConfig::default() };
            args.data.chosen((None, usual), quiet)?.0
        }
        None => {
            if let Some(flag) = args.data.pictures.apply(&mut None, &mut PictureConfig::default()) {
                bail_usage!(
                    "{flag} is for pictures of --data; the synthetic images are as they are"
                );
            }
            return Ok(lesson_images(args.seed, device)?);
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

/// Where an error is expected, what was measured instead.
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

/// What was measured of the baseline `name`, beside what theory expects.
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
    fn the_check_says_what_was_measured_of_right_and_wrong_predictors() {
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
