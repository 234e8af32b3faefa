//! `diffusion edit interpolate`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_model::{Batch, GenerationProgress, Generator, ImageSpec, SamplingConfig, Weights};
use diffusion_picture::Picture;
use diffusion_report::animation;
use diffusion_sample::SampleRequest;
use diffusion_sample::edit::{INVERSION_ITERATIONS, interpolate, to_noise};

use super::inversion::{RoundTripError, config};
use super::pictures::{name_of, write_grid};
use super::{by, counted, stopped};
use crate::args::control::{Control, ControlArgs};
use crate::args::runs::{FoundModel, ModelArgs};
use crate::commands::{make_folder, warn_of_images_beyond};
use crate::session::generation::{GenerationDisplay, each_batch};
use crate::session::progress::clock;
use crate::session::usage::{bail_usage, check_picture, check_spares};

/// Hundredths of a second for a frame.
const DELAY: u16 = 12;
/// Frames that a grid has room for.
const SHOWN: usize = 12;

/// Draw what lies between two pictures, or between the images of two seeds
///
/// The way is a great circle between the noises of which DDIM makes both (Song et al. 2021); those of pictures are found by running
/// it backwards.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion edit interpolate seven.png one.png --grid between.png --gif between.gif\n  \
                        diffusion edit interpolate --seeds 1,2 --frames 30 --gif between.gif"
)]
pub(crate) struct InterpolateArgs {
    /// Two pictures, of any size and kind
    #[arg(value_names = ["A", "B"], num_args = 2, required_unless_present = "seeds", conflicts_with = "seeds")]
    pictures: Vec<PathBuf>,
    /// Two seeds, whose first images by `diffusion sample --sampler ddim` are the ends
    #[arg(long, value_name = "A,B", value_parser = two_seeds)]
    seeds: Option<[u64; 2]>,
    #[command(flatten)]
    model: ModelArgs,
    /// Images to draw, the ends included
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u64).range(2..=10_000))]
    frames: u64,
    /// Steps, and as many backwards [default: 50, or all that the model was trained with]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: Option<u64>,
    /// The folder for the images: 000000.png, 000001.png, …
    #[arg(long, value_name = "DIR", default_value = "edited")]
    out: PathBuf,
    /// Also write the pictures and what lies between them in a row, up to 12 images of it
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
    /// Also write the images as an animation
    #[arg(long, value_name = "FILE.gif")]
    gif: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
}

impl InterpolateArgs {
    fn frame(&self, number: usize) -> PathBuf {
        self.out.join(format!("{number:06}.png"))
    }
}

fn two_seeds(text: &str) -> Result<[u64; 2], String> {
    let wrong = || "two seeds are wanted, as 1,2".to_owned();
    let (a, b) = text.split_once(',').ok_or_else(wrong)?;
    Ok([a.parse().map_err(|_| wrong())?, b.parse().map_err(|_| wrong())?])
}

/// What the way leads through.
struct Task<'a> {
    args: &'a InterpolateArgs,
    found: FoundModel,
    config: SamplingConfig,
    control: Control,
    class: Option<u32>,
}

pub(super) fn run(
    args: &InterpolateArgs,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    for (flag, path, ending) in [("--grid", &args.grid, "png"), ("--gif", &args.gif, "gif")] {
        if let Some(path) = path {
            check_picture(flag, path, &[ending])?;
        }
    }
    let inputs: Vec<PathBuf> = args.pictures.iter().chain(args.control.inputs()).cloned().collect();
    let drawn = [("--grid", &args.grid), ("--gif", &args.gif)];
    check_spares(&inputs, &drawn, (0..args.frames as usize).map(|frame| args.frame(frame)))?;
    let found = args.model.open(Weights::Ema, device)?;
    let config = config(args.steps, &found.model)?;
    let control = args.control.open(&found, device)?;
    let class = match control.requested_or_unconditional(&found.model.description)?.as_slice() {
        &[class] => class,
        classes => bail_usage!(
            "--class names {} classes; all of an interpolation is of one",
            classes.len()
        ),
    };
    let task = Task { args, found, config, control, class };
    let start = Instant::now();
    let Some((frames, error)) = task.draw(quiet)? else { return Ok(stopped(&args.out)) };
    println!(
        "{} from {} to {} in {} ({} steps each, {}){}",
        counted(frames.len(), "image", "images"),
        task.end(0),
        task.end(1),
        args.out.display(),
        task.config.plan.steps().len(),
        clock(start.elapsed().as_secs_f64()),
        by(&task.found)
    );
    if let Some(error) = error {
        println!("{}", error.describe());
    }
    Ok(ExitCode::SUCCESS)
}

impl Task<'_> {
    /// What an end is called.
    fn end(&self, number: usize) -> String {
        match self.args.seeds {
            Some(seeds) => format!("seed {}", seeds[number]),
            None => self.args.pictures[number].display().to_string(),
        }
    }

    /// Both pictures (2, C, H, W), where the ends are not seeds.
    fn pictures(&self) -> anyhow::Result<Option<Tensor>> {
        if self.args.seeds.is_some() {
            return Ok(None);
        }
        let shape = self.found.model.description.image_shape;
        let prepared = self.found.prepared()?;
        let read = |path: &PathBuf| {
            diffusion_data::read_picture(path, shape, &prepared, &self.found.model.device)
        };
        let pictures = self.args.pictures.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Tensor::cat(&pictures, 0)?))
    }

    /// The images, and how far the ends are from the pictures; none if interrupted.
    fn draw(&self, quiet: bool) -> anyhow::Result<Option<(Vec<Picture>, Option<RoundTripError>)>> {
        let (args, steps) = (self.args, self.config.plan.steps().len());
        let shares: Vec<f64> =
            (0..args.frames).map(|i| i as f64 / (args.frames - 1) as f64).collect();
        let batches = shares.len().div_ceil(self.config.batch_size);
        let inversion = usize::from(args.seeds.is_none());
        let mut display = GenerationDisplay::new("editing", (inversion + batches) * steps, quiet);
        // What cannot be read is known before anything is computed.
        let pictures = self.pictures()?;
        make_folder(&args.out)?;
        warn_of_images_beyond(&args.out, &[(args.out.clone(), args.frames as usize)])?;
        let Some([from, to]) = self.ends(pictures.as_ref(), &mut display)? else { return Ok(None) };

        let model = &self.found.model;
        let generator =
            Generator { model, config: self.config.clone(), guidance: &self.control.guidance };
        let specs: Vec<ImageSpec> =
            (0..args.frames).map(|index| ImageSpec { index, class: self.class }).collect();
        let operation = |batch: &mut Batch<'_>| {
            let Batch { range, denoiser, plan, observer, .. } = batch;
            let observer = &mut |p: diffusion_sample::Progress<'_>| observer(p.done, Some(&p));
            let images =
                interpolate([&from, &to], &shares[range.clone()], *denoiser, plan, observer)?;
            Ok(images.clamp(-1f32, 1f32)?)
        };
        let mut observer = |progress: &GenerationProgress<'_>| display.observe(progress);
        let (mut frames, mut ends) = (Vec::new(), Vec::new());
        let all = generator.apply(&specs, steps, Box::new(operation), &mut observer);
        let flow = each_batch(all, |batch| {
            for picture in diffusion_picture::from_tensor(&batch.images)? {
                picture.write_png(&args.frame(frames.len()))?;
                frames.push(picture);
            }
            if batch.range.start == 0 {
                ends.push(batch.images.narrow(0, 0, 1)?);
            }
            if batch.range.end == shares.len() {
                ends.push(batch.images.narrow(0, batch.range.len() - 1, 1)?);
            }
            Ok(())
        })?;
        display.close()?;
        if flow == ControlFlow::Break(()) {
            return Ok(None);
        }
        let error = match (&pictures, ends.as_slice()) {
            (Some(pictures), [first, last]) => {
                let mut error = RoundTripError::default();
                error.add(pictures, &Tensor::cat(&[first, last], 0)?)?;
                Some(error)
            }
            _ => None,
        };
        self.show(&shares, &frames, pictures.as_ref())?;
        Ok(Some((frames, error)))
    }

    /// The noises of both ends (1, C, H, W), found by inversion where the ends are pictures (2, C, H, W); none if interrupted.
    fn ends(
        &self,
        pictures: Option<&Tensor>,
        display: &mut GenerationDisplay,
    ) -> anyhow::Result<Option<[Tensor; 2]>> {
        let model = &self.found.model;
        let Some(pictures) = pictures else {
            let noise = |seed| {
                let image_shape = model.description.image_shape;
                let request =
                    SampleRequest { seed, indices: vec![0], image_shape, device: &model.device };
                request.initial(&self.config.plan)
            };
            let [a, b] = self.args.seeds.unwrap_or_default();
            return Ok(Some([noise(a)?, noise(b)?]));
        };
        let generator =
            Generator { model, config: self.config.clone(), guidance: &self.control.guidance };
        let specs = [0, 1].map(|index| ImageSpec { index, class: self.class });
        let operation = |batch: &mut Batch<'_>| {
            let Batch { denoiser, plan, observer, .. } = batch;
            to_noise(pictures, *denoiser, plan, INVERSION_ITERATIONS, &mut |done| {
                observer(done, None)
            })
        };
        let mut observer = |progress: &GenerationProgress<'_>| display.observe(progress);
        let steps = self.config.plan.steps().len();
        let noise = generator.apply(&specs, steps, Box::new(operation), &mut observer).all();
        match noise {
            Err(e) if e.is_cancelled() => Ok(None),
            noise => {
                let noise = noise?;
                Ok(Some([noise.narrow(0, 0, 1)?, noise.narrow(0, 1, 1)?]))
            }
        }
    }

    /// Writes the row and the animation, where they are wanted.
    fn show(
        &self,
        shares: &[f64],
        frames: &[Picture],
        given: Option<&Tensor>,
    ) -> anyhow::Result<()> {
        if let Some(path) = &self.args.gif {
            let named = shares.iter().zip(frames);
            let named =
                named.map(|(share, frame)| (format!("{share:.2}"), frame.enlarged_for_viewing()));
            animation(&named.collect::<Vec<_>>(), DELAY, path)?;
        }
        let Some(path) = &self.args.grid else { return Ok(()) };
        let count = frames.len().min(SHOWN);
        let last = frames.len() - 1;
        let chosen = (0..count).map(|i| i * last / (count - 1).max(1));
        let mut row: Vec<(String, Picture)> =
            chosen.map(|i| (format!("{:.2}", shares[i]), frames[i].clone())).collect();
        if let Some(given) = given {
            let mut given = diffusion_picture::from_tensor(given)?.into_iter();
            let name = |number: usize| name_of(&self.args.pictures[number]);
            if let (Some(a), Some(b)) = (given.next(), given.next()) {
                row.insert(0, (name(0), a));
                row.push((name(1), b));
            }
        } else {
            row[0].0 = self.end(0);
            row[count - 1].0 = self.end(1);
        }
        let (names, row): (Vec<String>, Vec<Picture>) = row.into_iter().unzip();
        write_grid(path, vec![(String::new(), row)], &names)
    }
}
