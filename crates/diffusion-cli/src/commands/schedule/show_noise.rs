//! `diffusion schedule show-noise`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use diffusion_data::PictureConfig;
use diffusion_picture::Picture;
use diffusion_process::{Domain, Levels, NoiseSource};
use diffusion_report::{Cell, sheet};

use super::SchedulesArgs;
use crate::args::data;
use crate::args::schedules::db_text;
use crate::session::interrupt;
use crate::session::usage::{bail_usage, check_picture};

/// Side of a picture in the sheet in pixels, at least.
const SIDE: usize = 84;

/// Draw one picture at several timesteps, one row per noise schedule
///
/// The noise is the same in every cell and grows from left to right. The number under each picture
/// is its signal-to-noise ratio in decibels.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion schedule show-noise\n  \
                        diffusion schedule show-noise --data photos --size 64 --index 3 --schedules linear,cosine,sigmoid",
          mut_arg("data", |arg| arg.display_order(3)))]
pub(crate) struct ShowNoiseArgs {
    #[command(flatten)]
    schedules: SchedulesArgs,
    /// Number of the picture in the data set, counted from 0
    #[arg(long, value_name = "N", default_value = "0")]
    index: usize,
    /// Seed of the noise; 0 to 2^64 - 1
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Write the pictures to this PNG file
    #[arg(long, value_name = "FILE.png", default_value = "noise.png")]
    out: PathBuf,
    #[command(flatten)]
    data: data::DataArgs,
}

pub(super) fn run(args: &ShowNoiseArgs, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    check_picture("--out", &args.out, &["png"])?;
    let comparison = args.schedules.comparison()?;
    let timesteps = args.schedules.timesteps(&comparison)?;
    let (dataset, _) = args.data.load((None, PictureConfig::default()), quiet)?;
    if args.index >= dataset.len() {
        bail_usage!("--index {}: there are {} pictures, counted from 0", args.index, dataset.len());
    }
    let x0 = dataset.images(&[args.index], &Device::Cpu)?;
    let noise = NoiseSource::new(args.seed).normal(
        Domain::Training,
        0,
        0..1,
        &dataset.image_shape(),
        &Device::Cpu,
    )?;
    let [_, height, width] = dataset.image_shape();
    let factor = SIDE.div_ceil(height.max(width)).max(1);
    let mut cells = Vec::new();
    for (_, schedule) in comparison.schedules() {
        let mut row = Vec::new();
        for &t in &timesteps {
            row.push(if t < schedule.len() {
                let x_t = Levels::at(schedule, &[t], &x0)?.add_noise(&x0, &noise)?;
                let picture = diffusion_picture::from_tensor(&x_t)?.remove(0).enlarged(factor);
                Cell { picture, caption: Some(format!("{} dB", db_text(schedule.snr_db(t)))) }
            } else {
                blank(width * factor, height * factor, dataset.image_shape()[0])
            });
        }
        cells.push(row);
    }
    let rows: Vec<String> = comparison.schedules().iter().map(|(name, _)| name.clone()).collect();
    let columns: Vec<String> = timesteps.iter().map(|t| format!("t = {t}")).collect();
    sheet(&cells, &rows, &columns)?.write_sheet(&args.out)?;
    println!("{}: picture {} ({})", args.out.display(), args.index, dataset.name(args.index));
    Ok(ExitCode::SUCCESS)
}

/// An empty cell, for a timestep beyond the end of a shorter schedule.
fn blank(width: usize, height: usize, channels: usize) -> Cell {
    Picture { width, height, channels, pixels: vec![255; width * height * channels] }.into()
}
