//! `diffusion edit inpaint`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use candle_core::{Device, Tensor};
use diffusion_data::{Background, PictureConfig};
use diffusion_model::Batch;
use diffusion_sample::edit::{Inpainting, RESAMPLES, inpaint};

use super::drawing::{Drawing, DrawingArgs};
use super::pictures::InputPictures;
use super::{by, counted, stopped};
use crate::session::progress::clock;
use crate::session::usage::bail_usage;

/// Make a part of a picture anew, to fit the rest (Lugmayr et al. 2022)
///
/// Result i depends on the seed, the picture and on i only; what is not made anew stays as it is, pixel by pixel.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion edit inpaint seven.png --hide bottom --grid filled.png\n  \
                        diffusion edit inpaint seven.png --mask mask.png --num 8 --resamples 10\n  \
                        diffusion edit inpaint pictures --hide center --out filled"
)]
pub(crate) struct InpaintArgs {
    #[command(flatten)]
    hole: HoleArgs,
    /// Results of each picture and class [default: 4, of each picture of a folder 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    num: Option<u64>,
    /// How often each step is taken: more make a better fit, in as many times the time
    #[arg(long, value_name = "N", default_value_t = RESAMPLES as u64, value_parser = clap::value_parser!(u64).range(1..=1000))]
    resamples: u64,
    #[command(flatten)]
    drawing: DrawingArgs,
}

/// What is to be made.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct HoleArgs {
    /// A picture of the same size as the one to be changed: white where something is to be made, black where nothing
    #[arg(long, value_name = "MASK.png")]
    mask: Option<PathBuf>,
    /// Make this half anew, or the middle half of both sides
    #[arg(long, value_name = "PART")]
    hide: Option<Part>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Part {
    Top,
    Bottom,
    Left,
    Right,
    Center,
}

impl Part {
    fn covers(self, (y, height): (usize, usize), (x, width): (usize, usize)) -> bool {
        let middle = |at: usize, length: usize| (length / 4..length - length / 4).contains(&at);
        match self {
            Self::Top => y < height / 2,
            Self::Bottom => y >= height / 2,
            Self::Left => x < width / 2,
            Self::Right => x >= width / 2,
            Self::Center => middle(y, height) && middle(x, width),
        }
    }
}

impl HoleArgs {
    /// (1, 1, H, W): 1 where something is to be made.
    fn mask(
        &self,
        given: &InputPictures,
        prepared: PictureConfig,
        device: &Device,
    ) -> anyhow::Result<Tensor> {
        let (_, _, height, width) = given.images.dims4()?;
        let values: Vec<f32> = match (&self.mask, self.hide) {
            (Some(path), _) => {
                check_size(path, given)?;
                // What is laid beside a picture is known.
                let prepared = PictureConfig { background: Background::BLACK, ..prepared };
                let mask =
                    diffusion_data::read_picture(path, [1, height, width], &prepared, device)
                        .context("--mask")?;
                // White from 128 of 255 on, which is just above 0 in [−1, 1].
                mask.flatten_all()?
                    .to_vec1::<f32>()?
                    .into_iter()
                    .map(|value| f32::from(u8::from(value > 0.0)))
                    .collect()
            }
            (None, Some(part)) => (0..height * width)
                .map(|i| f32::from(u8::from(part.covers((i / width, height), (i % width, width)))))
                .collect(),
            (None, None) => bail_usage!("--mask or --hide: say what is to be made"),
        };
        if let Some(path) = &self.mask {
            let path = path.display();
            if values.iter().all(|value| *value == 0.0) {
                bail_usage!(
                    "--mask {path}: nothing is white in the part of it that the model sees, and what is white is made"
                );
            }
            if values.iter().all(|value| *value == 1.0) {
                tracing::warn!(
                    "--mask {path}: all of it is white, so that nothing of the picture is left"
                );
            }
        }
        Ok(Tensor::from_vec(values, (1, 1, height, width), device)?)
    }
}

/// Refuses a mask that does not lie on all pictures as it is.
fn check_size(mask: &Path, given: &InputPictures) -> anyhow::Result<()> {
    let (width, height) = diffusion_data::picture_dimensions(mask).context("--mask")?;
    for path in &given.paths {
        let (of_width, of_height) = diffusion_data::picture_dimensions(path)?;
        if (width, height) != (of_width, of_height) {
            bail_usage!(
                "--mask {}: it has {width}×{height} pixels, and the picture {} {of_width}×{of_height}; a mask must have the size of \
                 its picture",
                mask.display(),
                path.display()
            );
        }
    }
    Ok(())
}

pub(super) fn run(args: &InpaintArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    let num = |folder: bool| args.num.unwrap_or(if folder { 1 } else { 4 });
    let drawing =
        Drawing::open(&args.drawing, args.hole.mask.as_slice(), |given| num(given.folder), device)?;
    let mask = args.hole.mask(&drawing.given, drawing.found.prepared()?, device)?;
    let resamples = args.resamples as usize;
    let pictures = &drawing.given.images;
    let steps = Inpainting { pictures, mask: &mask, resamples }.steps(&drawing.config.plan);
    let start = Instant::now();
    let edit = |pictures: &Tensor, batch: &mut Batch<'_>| {
        let Batch { denoiser, sampler, plan, request, observer, .. } = batch;
        let observer = &mut |p: diffusion_sample::Progress<'_>| observer(p.done, Some(&p));
        let inpainting = Inpainting { pictures, mask: &mask, resamples };
        inpaint(&inpainting, *denoiser, *sampler, plan, request, observer)
    };
    let Some(results) = drawing.run(steps, quiet, &edit)? else {
        return Ok(stopped(&args.drawing.out));
    };
    let hidden = mask.ne(0f32)?.broadcast_as(pictures.shape())?;
    // Grey is the middle of the range.
    let known = hidden.where_cond(&pictures.zeros_like()?, pictures)?;
    drawing.write_grid(&[("given", pictures), ("known", &known)], &results)?;
    let made: f32 = mask.sum_all()?.to_scalar()?;
    println!(
        "{} of {} in {}: {made} of {} pixels made ({} steps of {}, each taken {}, {}){}",
        counted(drawing.count(), "filling", "fillings"),
        drawing.given.names(),
        args.drawing.out.display(),
        mask.elem_count(),
        drawing.config.plan.steps().len(),
        drawing.config.sampler.name(),
        counted(resamples, "time", "times"),
        clock(start.elapsed().as_secs_f64()),
        by(&drawing.found)
    );
    Ok(ExitCode::SUCCESS)
}
