//! `diffusion evaluate`.

mod grid;
mod predictors;

use std::process::ExitCode;

use candle_core::Device;

/// Look at what a model does
#[derive(clap::Subcommand)]
pub(crate) enum EvaluateCommand {
    Grid(grid::GridArgs),
    Predictors(predictors::PredictorsArgs),
}

pub(crate) fn run(command: &EvaluateCommand, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    match command {
        EvaluateCommand::Grid(args) => grid::run(args, device),
        EvaluateCommand::Predictors(args) => predictors::run(args, device, quiet),
    }
}
