//! `diffusion evaluate`.

mod ema;
mod grid;
mod guidance;
mod model;
mod pictures;
mod predictors;
mod samples;

use std::process::ExitCode;

use candle_core::Device;
use diffusion_eval::Estimate;
use diffusion_model::{LoadedModel, Objective};
use diffusion_process::NoiseLevel;
use serde_json::{Value, json};

/// Evaluate models and images
#[derive(clap::Subcommand)]
pub(crate) enum EvaluateCommand {
    Ema(ema::EmaArgs),
    Grid(grid::GridArgs),
    Guidance(guidance::GuidanceArgs),
    Model(model::ModelEvaluationArgs),
    Predictors(predictors::PredictorsArgs),
    Samples(samples::SamplesArgs),
}

pub(crate) fn run(
    command: &EvaluateCommand,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    match command {
        EvaluateCommand::Ema(args) => ema::run(args, device, quiet),
        EvaluateCommand::Grid(args) => grid::run(args, device, quiet),
        EvaluateCommand::Guidance(args) => guidance::run(args, device, quiet),
        EvaluateCommand::Model(args) => model::run(args, device, quiet),
        EvaluateCommand::Predictors(args) => predictors::run(args, device, quiet),
        EvaluateCommand::Samples(args) => samples::run(args, device, quiet),
    }
}

/// The number of noise levels at which a process without timesteps is evaluated.
const CONTINUOUS_LEVELS: usize = 1000;

/// The noise levels of a process without timesteps, evenly spaced over the levels of training.
fn continuous_levels(objective: &Objective) -> Vec<NoiseLevel> {
    let share = |i: usize| (i as f64 + 0.5) / CONTINUOUS_LEVELS as f64;
    (0..CONTINUOUS_LEVELS).map(|i| objective.level_at(share(i))).collect()
}

/// The x axis of a chart over timesteps.
const TIMESTEP: &str = "timestep t";

/// The x axis of a chart over the noise levels of `model`.
fn axis(model: &LoadedModel) -> &'static str {
    if model.objective.schedule().is_some() {
        TIMESTEP
    } else {
        "noise level, in thousandths of the training levels"
    }
}

/// An estimate as text: mean ± standard error.
fn with_error(Estimate { mean, standard_error }: Estimate) -> String {
    // A single image has no standard error.
    let error =
        if standard_error.is_nan() { "-".to_owned() } else { format!("{standard_error:.4}") };
    format!("{mean:.4} ± {error}")
}

/// An estimate as JSON.
fn as_object(estimate: Estimate) -> Value {
    json!({ "mean": estimate.mean, "standard_error": estimate.standard_error })
}
