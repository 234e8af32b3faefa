//! `diffusion model`.

mod analyze;

use std::process::ExitCode;

/// Analyse networks
#[derive(clap::Subcommand)]
pub(crate) enum ModelCommand {
    Analyze(analyze::AnalyzeArgs),
}

pub(crate) fn run(command: &ModelCommand) -> anyhow::Result<ExitCode> {
    let ModelCommand::Analyze(args) = command;
    analyze::run(args)
}
