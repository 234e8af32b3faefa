//! `diffusion edit reclass`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_model::{
    Batch, GenerationProgress, Generator, GuidanceConfig, ImageSpec, LoadedModel, ModelDescription,
    Operation, SamplingConfig, Weights,
};
use diffusion_picture::Picture;
use diffusion_sample::edit::{GRAIN, INVERSION_ITERATIONS, from_noise, to_noise, with_grain};

use super::inversion::{RoundTripError, config};
use super::pictures::{InputPictures, write_grid};
use super::{GRID, by, stopped};
use crate::args::control::{Control, ControlArgs, find_classes};
use crate::args::numbers::{scale, share_below_1};
use crate::args::runs::ModelArgs;
use crate::commands::make_folder;
use crate::session::generation::{GenerationDisplay, each_batch};
use crate::session::progress::clock;
use crate::session::trajectory::Trajectory;
use crate::session::usage::{bail_usage, check_picture, check_spares};

/// Draw a picture as one of another class
///
/// The noise that the picture comes from as one of its class becomes an image as one of the other: what the class does not decide,
/// as a digit's slant and stroke, stays.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion edit reclass seven.png --from 7 --to 1,2,3 --grid others.png\n  \
                        diffusion edit reclass digits/7 --to all --out others"
)]
pub(crate) struct ReclassArgs {
    /// The picture, of any size and kind, or a folder of pictures
    #[arg(value_name = "PICTURE")]
    picture: PathBuf,
    /// What the picture is of, by name or number, or `none` [default: the name of its folder, where that is a class]
    #[arg(long, value_name = "CLASS")]
    from: Option<String>,
    /// What is to be drawn, by name or number, or `all`
    #[arg(long, value_name = "CLASS", value_delimiter = ',', required = true)]
    to: Vec<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// How far to push the results towards their class; 1: not at all [default: as `diffusion sample`]
    #[arg(long, value_name = "SCALE", value_parser = scale, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// Steps there, and as many back [default: 50, or all that the model was trained with]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: Option<u64>,
    /// Noise on the pictures before the way to their own begins, as a share of the steps, which are then not gone backwards: the more, the
    /// more is changed; with 0, little is, and the way back is the most exact
    #[arg(long, value_name = "SHARE", default_value_t = GRAIN, value_parser = share_below_1, allow_negative_numbers = true)]
    grain: f64,
    /// The seed of that noise
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// The folder for the results, PNGs that are named after the pictures and their new class
    #[arg(long, value_name = "DIR", default_value = "edited")]
    out: PathBuf,
    /// Also write the pictures and their results in rows, up to 16 pictures
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
    /// Also write how the first results came to be as the first class of --to, beside what the model took them for at each step: animated
    #[arg(long, value_name = "FILE.gif")]
    gif: Option<PathBuf>,
}

/// What becomes of pictures.
struct Task<'a> {
    model: &'a LoadedModel,
    config: SamplingConfig,
    given: InputPictures,
    from: Option<u32>,
    to: Vec<Option<u32>>,
    guided: Control,
    /// Steps that noise on the pictures stands for.
    grain: usize,
}

pub(super) fn run(args: &ReclassArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.grid {
        check_picture("--grid", path, &["png"])?;
    }
    let trajectory = Trajectory::new(None, args.gif.as_deref(), None)?;
    let found = args.model.open(Weights::Ema, device)?;
    let model = &found.model.description;
    let to = find_classes("--to", &args.to, &model.classes, model.network.takes_no_class())?;
    let from = class_before(args, model)?;
    let guided = ControlArgs::of_guidance(args.guidance).open(&found, device)?;
    let config = SamplingConfig { seed: args.seed, ..config(args.steps, &found.model)? };
    let given = InputPictures::open(&args.picture, model.image_shape, &found.prepared()?, device)?;
    let steps = config.plan.steps().len();
    let grain = (args.grain * steps as f64).round() as usize;
    // Few steps are no reason to leave out what was asked for.
    let grain = grain.max(usize::from(args.grain > 0.0)).min(steps - 1);
    let task = Task { model: &found.model, config, given, from, to, guided, grain };
    let files: Vec<(usize, PathBuf)> = task.files(&args.out).collect();
    task.given.check_results(files.iter().map(|(picture, file)| (*picture, file.as_path())))?;
    let drawn = [("--grid", &args.grid), ("--gif", &args.gif)];
    check_spares(&task.given.paths, &drawn, files.into_iter().map(|(_, file)| file))?;
    make_folder(&args.out)?;

    let start = Instant::now();
    let Some((rows, error)) = task.draw(&args.out, trajectory, quiet)? else {
        return Ok(stopped(&args.out));
    };
    let named = |class: Option<u32>| task.guided.class_name(class).to_owned();
    let targets: Vec<String> = task.to.iter().map(|class| named(*class)).collect();
    if let Some(path) = &args.grid {
        let columns = [format!("given: {}", named(from)), "and back".to_owned()];
        write_grid(
            path,
            rows,
            &columns.into_iter().chain(targets.iter().cloned()).collect::<Vec<_>>(),
        )?;
    }
    println!(
        "{}, taken for {}, as {} in {} ({steps} steps each way, the last {} of them grain, {}){}",
        task.given.names(),
        named(from),
        targets.join(", "),
        args.out.display(),
        task.grain,
        clock(start.elapsed().as_secs_f64()),
        by(&found)
    );
    println!("{}", error.describe());
    Ok(ExitCode::SUCCESS)
}

/// The class that the pictures are of.
fn class_before(args: &ReclassArgs, model: &ModelDescription) -> anyhow::Result<Option<u32>> {
    if let Some(name) = &args.from {
        let takes_none = model.network.takes_no_class();
        return match find_classes("--from", std::slice::from_ref(name), &model.classes, takes_none)?
            .as_slice()
        {
            &[class] => Ok(class),
            _ => bail_usage!("--from {name}: a picture is of one class"),
        };
    }
    let path = args.picture.canonicalize().unwrap_or_else(|_| args.picture.clone());
    let folder = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
    let folder = folder.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match model.classes.iter().position(|class| Some(&class.name) == folder.as_ref()) {
        Some(class) => Ok(Some(class as u32)),
        None => bail_usage!(
            "--from: say what {} is of, a class of the model's or none; the name of its folder is not one",
            args.picture.display()
        ),
    }
}

/// The rows of a grid, and how far the pictures are from those that came back.
type Drawn = (Vec<(String, Vec<Picture>)>, RoundTripError);

impl Task<'_> {
    /// The file of each picture as each class.
    fn files(&self, out: &Path) -> impl Iterator<Item = (usize, PathBuf)> {
        let pictures = 0..self.given.paths.len();
        pictures.flat_map(move |picture| {
            self.to.iter().map(move |to| (picture, self.file(out, picture, *to)))
        })
    }

    fn file(&self, out: &Path, picture: usize, class: Option<u32>) -> PathBuf {
        self.given.result(out, picture, &[self.guided.class_folder(class).to_owned()])
    }

    /// All results, batch by batch; `trajectory` follows the first. None if interrupted.
    fn draw(
        &self,
        out: &Path,
        trajectory: Trajectory,
        quiet: bool,
    ) -> anyhow::Result<Option<Drawn>> {
        let (steps, count, size) =
            (self.config.plan.steps().len(), self.given.paths.len(), self.config.batch_size);
        // There, back, and to each class.
        let ways = 2 + self.to.len();
        let mut display =
            GenerationDisplay::new("editing", count.div_ceil(size) * ways * steps, quiet);
        let mut trajectory = Some(trajectory);
        let (mut rows, mut error) = (Vec::new(), RoundTripError::default());
        for first in (0..count).step_by(size) {
            let range = first..count.min(first + size);
            let drawn = self.draw_batch(&range, out, &mut error, &mut trajectory, &mut display)?;
            let Some(columns) = drawn else {
                display.close()?;
                return Ok(None);
            };
            for number in range.take_while(|number| *number < GRID) {
                let row = columns.iter().map(|column| column[number - first].clone()).collect();
                rows.push((self.given.name(number), row));
            }
        }
        display.close()?;
        Ok(Some((rows, error)))
    }

    /// The pictures at `range`, what comes back of them, and what they are as each class; PNGs are written as they come. None if
    /// interrupted.
    fn draw_batch(
        &self,
        range: &Range<usize>,
        out: &Path,
        error: &mut RoundTripError,
        trajectory: &mut Option<Trajectory>,
        display: &mut GenerationDisplay,
    ) -> anyhow::Result<Option<Vec<Vec<Picture>>>> {
        let pictures = self.given.images.narrow(0, range.start, range.len())?;
        let plain = GuidanceConfig::default();
        let inversion = |batch: &mut Batch<'_>| {
            let Batch { denoiser, plan, request, observer, .. } = batch;
            let (grained, front) = with_grain(&pictures, self.grain, plan, request)?;
            to_noise(&grained, *denoiser, &front, INVERSION_ITERATIONS, &mut |done| {
                observer(done, None)
            })
        };
        let Some(noise) = self.apply(range, &plain, self.from, &inversion, display)? else {
            return Ok(None);
        };
        let way = |batch: &mut Batch<'_>| {
            let Batch { denoiser, plan, observer, .. } = batch;
            let observer = &mut |p: diffusion_sample::Progress<'_>| observer(p.done, Some(&p));
            Ok(from_noise(&noise, *denoiser, plan, observer)?.clamp(-1f32, 1f32)?)
        };
        let Some(back) = self.apply(range, &plain, self.from, &way, display)? else {
            return Ok(None);
        };
        error.add(&pictures, &back)?;
        let mut columns = vec![
            diffusion_picture::from_tensor(&pictures)?,
            diffusion_picture::from_tensor(&back)?,
        ];
        if let Some(trajectory) = trajectory.take() {
            display.follow(trajectory);
        }
        for class in &self.to {
            let result = self.apply(range, &self.guided.guidance, *class, &way, display)?;
            let Some(result) = result else { return Ok(None) };
            let results = diffusion_picture::from_tensor(&result)?;
            for (number, result) in range.clone().zip(&results) {
                result.write_png(&self.file(out, number, *class))?;
            }
            columns.push(results);
        }
        Ok(Some(columns))
    }

    /// What `operation` makes of the pictures at `range`, a batch, as ones of `class`. None if interrupted.
    fn apply(
        &self,
        range: &Range<usize>,
        guidance: &GuidanceConfig,
        class: Option<u32>,
        operation: &Operation<'_>,
        display: &mut GenerationDisplay,
    ) -> anyhow::Result<Option<Tensor>> {
        let generator = Generator { model: self.model, config: self.config.clone(), guidance };
        let specs: Vec<ImageSpec> =
            range.clone().map(|index| ImageSpec { index: index as u64, class }).collect();
        let mut observer = |progress: &GenerationProgress<'_>| display.observe(progress);
        let mut images = None;
        let batches = generator.apply(
            &specs,
            self.config.plan.steps().len(),
            Box::new(operation),
            &mut observer,
        );
        let flow = each_batch(batches, |batch| {
            images = Some(batch.images);
            Ok(())
        })?;
        Ok(images.filter(|_| flow.is_continue()))
    }
}
