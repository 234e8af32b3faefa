//! `diffusion evaluate`.

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

/// Look at what a model does
#[derive(clap::Subcommand)]
pub(crate) enum EvaluateCommand {
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
        EvaluateCommand::Grid(args) => grid::run(args, device, quiet),
        EvaluateCommand::Guidance(args) => guidance::run(args, device, quiet),
        EvaluateCommand::Model(args) => model::run(args, device, quiet),
        EvaluateCommand::Predictors(args) => predictors::run(args, device, quiet),
        EvaluateCommand::Samples(args) => samples::run(args, device, quiet),
    }
}

/// Levels of a process that has no timesteps.
const CONTINUOUS: usize = 1000;

/// Levels of a process without timesteps, evenly over those of training.
fn continuous_levels(objective: &Objective) -> Vec<NoiseLevel> {
    let share = |i: usize| (i as f64 + 0.5) / CONTINUOUS as f64;
    (0..CONTINUOUS).map(|i| objective.level_at(share(i))).collect()
}

/// What the place of a level is in a chart.
const TIMESTEP: &str = "timestep t";

/// The same, of the levels of a model.
fn axis(model: &LoadedModel) -> &'static str {
    if model.objective.schedule().is_some() {
        TIMESTEP
    } else {
        "noise level, in thousandths of those of training"
    }
}

/// For people.
fn with_error(Estimate { mean, standard_error }: Estimate) -> String {
    // One image has no deviation.
    let error =
        if standard_error.is_nan() { "-".to_owned() } else { format!("{standard_error:.4}") };
    format!("{mean:.4} ± {error}")
}

/// For programs.
fn as_object(estimate: Estimate) -> Value {
    json!({ "mean": estimate.mean, "standard_error": estimate.standard_error })
}
