//! `diffusion model`: networks, taken apart.

mod analyze;

use std::process::ExitCode;

/// Take networks apart
#[derive(clap::Subcommand)]
pub(crate) enum ModelCommand {
    Analyze(analyze::AnalyzeArgs),
}

pub(crate) fn run(command: &ModelCommand) -> anyhow::Result<ExitCode> {
    let ModelCommand::Analyze(args) = command;
    analyze::run(args)
}
