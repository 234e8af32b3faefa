//! `diffusion edit`.

mod inpaint;
mod interpolate;
mod inversion;
mod job;
mod pictures;
mod reclass;
mod vary;

use std::path::Path;
use std::process::ExitCode;

use candle_core::Device;

use super::quantity;
use crate::args::runs::FoundModel;
use crate::session::interrupt;

/// Edit pictures with a trained model
///
/// The model needs no further training. `vary` makes variations of a picture, `inpaint` repaints a
/// part of it, `interpolate` generates images between two pictures, and `reclass` changes its
/// class. Pictures may have any size; they are resized to the size of the model's images. Without a
/// run, a small model of handwritten digits that comes with the program is used.
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

/// The largest number of pictures in a grid, and of results of each.
const GRID: usize = 16;

/// Prints that the edit was interrupted; returns the exit code.
fn report_interrupted(out: &Path) -> ExitCode {
    println!("stopped before the last picture; the finished ones are in {}", out.display());
    ExitCode::from(interrupt::exit_code())
}

/// The end of a result line, which names the model that comes with the program if it was used.
fn model_note(found: &FoundModel) -> &'static str {
    if found.checkpoint.is_none() { ", by the model that comes with the program" } else { "" }
}
