//! `diffusion edit`.

mod drawing;
mod inpaint;
mod interpolate;
mod inversion;
mod pictures;
mod reclass;
mod vary;

use std::path::Path;
use std::process::ExitCode;

use candle_core::Device;

use crate::args::runs::FoundModel;
use crate::session::interrupt;

/// Change pictures by a model as it is, without further training
#[derive(clap::Subcommand)]
pub(crate) enum EditCommand {
    Vary(vary::VaryArgs),
    Inpaint(inpaint::InpaintArgs),
    Interpolate(interpolate::InterpolateArgs),
    Reclass(reclass::ReclassArgs),
}

pub(crate) fn run(command: &EditCommand, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    match command {
        EditCommand::Vary(args) => vary::run(args, device, quiet),
        EditCommand::Inpaint(args) => inpaint::run(args, device, quiet),
        EditCommand::Interpolate(args) => interpolate::run(args, device, quiet),
        EditCommand::Reclass(args) => reclass::run(args, device, quiet),
    }
}

/// Pictures that a grid has a row for, and columns that it has for results.
const GRID: usize = 16;

/// Says that an edit was interrupted.
fn stopped(out: &Path) -> ExitCode {
    println!("stopped before the last picture; those that were done are in {}", out.display());
    ExitCode::from(interrupt::EXIT_CODE)
}

/// Whose work it was, where that is not what the user trained.
fn by(found: &FoundModel) -> &'static str {
    if found.checkpoint.is_none() { ", by the model that comes with the program" } else { "" }
}

/// How many of something.
fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
