//! `diffusion edit inpaint`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use candle_core::{Device, Tensor};
use diffusion_data::{Background, PictureConfig};
use diffusion_model::Batch;
use diffusion_sample::edit::{Inpainting, RESAMPLES, inpaint};

use super::job::{EditArgs, EditJob};
use super::pictures::InputPictures;
use super::{model_note, quantity, report_interrupted};
use crate::args::numbers::whole;
use crate::session::progress::clock;
use crate::session::usage::bail_usage;

/// Repaint a part of a picture so that it fits the rest
///
/// After each step the known part is replaced by the picture with noise of the same level (RePaint,
/// Lugmayr et al. 2022). The known part of a result is equal to the picture in the model's
/// size, pixel by pixel. Result i depends only on the model, the sampling flags, the picture,
/// --seed and i.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion edit inpaint seven.png --hide bottom --grid filled.png\n  \
                        diffusion edit inpaint seven.png --mask mask.png --num 8 --resamples 10\n  \
                        diffusion edit inpaint pictures --hide center --out filled"
)]
pub(crate) struct InpaintArgs {
    #[command(flatten)]
    region: RegionArgs,
    /// Number of results of each picture and class, 1 to 1,000,000 [default: 4, or 1 if PICTURE is
    /// a folder]
    #[arg(long, value_name = "N", value_parser = whole(1..=1_000_000))]
    num: Option<u64>,
    /// Number of times that each step is taken, 1 to 1000
    ///
    /// Before each repetition noise leads back to the start of the step, which lets the repainted
    /// part and the known part fit each other. Larger values fit better and take proportionally
    /// longer; 1 is the fastest and leaves seams (Lugmayr et al. 2022).
    #[arg(long, value_name = "N", default_value_t = RESAMPLES as u64, value_parser = whole(1..=1000))]
    resamples: u64,
    #[command(flatten)]
    edit: EditArgs,
}

/// The flags of the region to repaint.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct RegionArgs {
    /// Mask picture: white = repaint, black = keep
    ///
    /// It must have the same size as the picture, in pixels. Values of 128 to 255 count as white.
    #[arg(long, value_name = "MASK.png")]
    mask: Option<PathBuf>,
    /// Part of the picture to repaint
    #[arg(long, value_name = "PART")]
    hide: Option<Part>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Part {
    /// The upper half.
    Top,
    /// The lower half.
    Bottom,
    /// The left half.
    Left,
    /// The right half.
    Right,
    /// The middle half of the width and of the height.
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

impl RegionArgs {
    /// The mask (1, 1, H, W): 1 = repaint, 0 = keep.
    fn mask(
        &self,
        inputs: &InputPictures,
        prepared: PictureConfig,
        device: &Device,
    ) -> anyhow::Result<Tensor> {
        let (_, _, height, width) = inputs.images.dims4()?;
        let values: Vec<f32> = match (&self.mask, self.hide) {
            (Some(path), _) => {
                check_size(path, inputs)?;
                // Black, because the padding beside a picture is known.
                let prepared = PictureConfig { background: Background::BLACK, ..prepared };
                let mask =
                    diffusion_data::read_picture(path, [1, height, width], &prepared, device)
                        .context("--mask")?;
                // 128 of 255 is just above 0 in [−1, 1].
                mask.flatten_all()?
                    .to_vec1::<f32>()?
                    .into_iter()
                    .map(|value| f32::from(u8::from(value > 0.0)))
                    .collect()
            }
            (None, Some(part)) => (0..height * width)
                .map(|i| f32::from(u8::from(part.covers((i / width, height), (i % width, width)))))
                .collect(),
            (None, None) => bail_usage!("--mask or --hide is required: name the part to repaint"),
        };
        if let Some(path) = &self.mask {
            let path = path.display();
            if values.iter().all(|value| *value == 0.0) {
                bail_usage!(
                    "--mask {path}: nothing to repaint, the visible part has no white pixels"
                );
            }
            if values.iter().all(|value| *value == 1.0) {
                tracing::warn!(
                    "--mask {path}: all pixels are white, so nothing of the picture is left"
                );
            }
        }
        Ok(Tensor::from_vec(values, (1, 1, height, width), device)?)
    }
}

/// Fails if the mask has not the size of every picture.
fn check_size(mask: &Path, inputs: &InputPictures) -> anyhow::Result<()> {
    let (width, height) = diffusion_data::picture_dimensions(mask).context("--mask")?;
    for path in &inputs.paths {
        let (picture_width, picture_height) = diffusion_data::picture_dimensions(path)?;
        if (width, height) != (picture_width, picture_height) {
            bail_usage!(
                "--mask {}: the mask has {width}×{height} pixels, the picture {} \
                 {picture_width}×{picture_height}; they must have the same size",
                mask.display(),
                path.display()
            );
        }
    }
    Ok(())
}

pub(super) fn run(args: &InpaintArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    let num = |folder: bool| args.num.unwrap_or(if folder { 1 } else { 4 });
    let job = EditJob::open(
        &args.edit,
        args.region.mask.as_slice(),
        |inputs| num(inputs.folder),
        device,
    )?;
    let mask = args.region.mask(&job.inputs, job.found.picture_config()?, device)?;
    let resamples = args.resamples as usize;
    let pictures = &job.inputs.images;
    let steps = Inpainting { pictures, mask: &mask, resamples }.steps(&job.config.plan);
    let start = Instant::now();
    let edit = |pictures: &Tensor, batch: &mut Batch<'_>| {
        let Batch { denoiser, sampler, plan, request, observer, .. } = batch;
        let observer = &mut |p: diffusion_sample::Progress<'_>| observer(p.done, Some(&p));
        let inpainting = Inpainting { pictures, mask: &mask, resamples };
        inpaint(&inpainting, *denoiser, *sampler, plan, request, observer)
    };
    let Some(results) = job.run(steps, quiet, &edit)? else {
        return Ok(report_interrupted(&args.edit.out));
    };
    let repainted = mask.ne(0f32)?.broadcast_as(pictures.shape())?;
    // 0 is grey, the middle of the range.
    let known = repainted.where_cond(&pictures.zeros_like()?, pictures)?;
    job.write_grid(&[("input", pictures), ("known", &known)], &results)?;
    let pixels: f32 = mask.sum_all()?.to_scalar()?;
    println!(
        "{} of {} in {}: {pixels} of {} pixels repainted ({} of {}, each taken {}, {}){}",
        quantity(job.count(), "filling", "fillings"),
        job.inputs.names(),
        args.edit.out.display(),
        mask.elem_count(),
        quantity(job.config.plan.steps().len(), "step", "steps"),
        job.config.sampler.name(),
        quantity(resamples, "time", "times"),
        clock(start.elapsed().as_secs_f64()),
        model_note(&job.found)
    );
    Ok(ExitCode::SUCCESS)
}
