//! `diffusion data`: pictures before they are trained on.

mod inspect;
mod pack;

use std::process::ExitCode;

/// Look at, pack and download pictures
#[derive(clap::Subcommand)]
pub(crate) enum DataCommand {
    Inspect(inspect::InspectArgs),
    Pack(pack::PackArgs),
}

pub(crate) fn run(command: &DataCommand, quiet: bool) -> anyhow::Result<ExitCode> {
    match command {
        DataCommand::Inspect(args) => inspect::run(args, quiet),
        DataCommand::Pack(args) => pack::run(args, quiet),
    }
}
