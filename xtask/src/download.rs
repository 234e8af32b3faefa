//! `cargo xtask download`: short for `diffusion data download`.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::cargo::workspace_root;

/// Download a complete data set with the program: `diffusion data download NAME`
#[derive(Debug, clap::Args)]
pub(crate) struct DownloadArgs {
    /// Name of the data set: mnist, fashion-mnist or cifar10
    name: String,
    /// Folder for its files [default: data/NAME]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs the program and returns its exit code.
pub(crate) fn run(args: &DownloadArgs) -> anyhow::Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "-q", "--manifest-path"]).arg(workspace_root().join("Cargo.toml"));
    command.args(["-p", "diffusion-cli", "--", "data", "download", &args.name]);
    if let Some(folder) = &args.data_dir {
        command.arg("--data-dir").arg(folder);
    }
    let status = command.status().context("cannot start cargo")?;
    // A program that was ended by a signal has no exit code.
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
