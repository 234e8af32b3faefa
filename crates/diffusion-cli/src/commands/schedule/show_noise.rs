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

/// Pixels that a picture's side has in the sheet, at least.
const SIDE: usize = 84;

/// Draw one picture at several timesteps, a row for each schedule
///
/// Every picture has the same noise on it, more of it from left to right; under each stands its signal-to-noise ratio.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion schedule show-noise\n  \
                        diffusion schedule show-noise --data photos --size 64 --index 3 --schedules linear,cosine,sigmoid")]
pub(crate) struct ShowNoiseArgs {
    #[command(flatten)]
    schedules: SchedulesArgs,
    #[command(flatten)]
    data: data::DataArgs,
    /// Which of the pictures
    #[arg(long, value_name = "N", default_value = "0")]
    index: usize,
    /// The seed of the noise
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// The picture to write
    #[arg(long, value_name = "FILE.png", default_value = "noise.png")]
    out: PathBuf,
}

pub(super) fn run(args: &ShowNoiseArgs, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    check_picture("--out", &args.out, &["png"])?;
    let comparison = args.schedules.comparison()?;
    let timesteps = args.schedules.timesteps(&comparison)?;
    let (dataset, _) = args.data.chosen((None, PictureConfig::default()), quiet)?;
    if args.index >= dataset.len() {
        bail_usage!("--index {}: there are {} pictures", args.index, dataset.len());
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
    sheet(&cells, &rows, &columns)?.write_png(&args.out)?;
    println!("{}: picture {} ({})", args.out.display(), args.index, dataset.name(args.index));
    Ok(ExitCode::SUCCESS)
}

/// The place of a timestep that a shorter schedule does not have.
fn blank(width: usize, height: usize, channels: usize) -> Cell {
    Picture { width, height, channels, pixels: vec![255; width * height * channels] }.into()
}
