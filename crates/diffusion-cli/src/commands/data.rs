//! `diffusion data`.

#[cfg(feature = "hub")]
pub(crate) mod download;
mod inspect;
mod pack;

use std::process::ExitCode;

/// Inspect, pack and download data sets of pictures
#[derive(clap::Subcommand)]
pub(crate) enum DataCommand {
    Inspect(inspect::InspectArgs),
    Pack(pack::PackArgs),
    #[cfg(feature = "hub")]
    Download(download::DownloadArgs),
}

pub(crate) fn run(command: &DataCommand, quiet: bool) -> anyhow::Result<ExitCode> {
    match command {
        DataCommand::Inspect(args) => inspect::run(args, quiet),
        DataCommand::Pack(args) => pack::run(args, quiet),
        #[cfg(feature = "hub")]
        DataCommand::Download(args) => download::run(args),
    }
}
