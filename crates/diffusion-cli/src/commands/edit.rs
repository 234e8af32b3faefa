//! `diffusion edit`.

mod drawing;
mod given;
mod inpaint;
mod interpolate;
mod inversion;
mod reclass;
mod vary;

use std::path::Path;
use std::process::ExitCode;

use candle_core::Device;
use diffusion_process::Threshold;
use diffusion_sample::SampleError;
use diffusion_sample::edit::EditError;

use crate::interrupt;
use crate::runs::Found;

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

/// Images computed together: more are not faster.
const BATCH: usize = 64;
/// Pictures that a grid has a row for, and columns that it has for results.
const GRID: usize = 16;
/// Estimates are kept in the range of pictures.
const IN_RANGE: Option<Threshold> = Some(Threshold::Clip { range: 1.0 });

/// The result of an edit, or none if it was interrupted.
fn unless_cancelled<T>(result: Result<T, EditError>) -> anyhow::Result<Option<T>> {
    match result {
        Err(EditError::Sample(SampleError::Cancelled { .. })) => Ok(None),
        result => Ok(Some(result?)),
    }
}

/// Says that an edit was interrupted.
fn stopped(out: &Path) -> ExitCode {
    println!("stopped before the last picture; those that were done are in {}", out.display());
    ExitCode::from(interrupt::EXIT_CODE)
}

/// Whose work it was, where that is not what the user trained.
fn by(found: &Found) -> &'static str {
    if found.checkpoint.is_none() { ", by the model that comes with the program" } else { "" }
}

/// How many of something.
fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
