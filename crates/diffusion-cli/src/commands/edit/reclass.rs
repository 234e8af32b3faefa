//! `diffusion edit reclass`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_data::picture::{self, Picture};
use diffusion_sample::SampleRequest;
use diffusion_sample::edit::{EditError, from_noise, to_noise, with_grain};
use diffusion_schedule::SamplingPlan;
use diffusion_train::{LoadedModel, ModelDescription, Weights};

use super::given::{Given, write_grid};
use super::inversion::{ITERATIONS, WayBack, plan};
use super::{BATCH, GRID, IN_RANGE, by, stopped, unless_cancelled};
use crate::commands::make_folder;
use crate::commands::progress::{Progress, clock};
use crate::commands::sample::trajectory::Trajectory;
use crate::control::{Control, ControlArgs, find_classes, scale};
use crate::interrupt;
use crate::runs::ModelArgs;
use crate::usage::{bail_usage, check_picture, check_spares};

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
    #[arg(long, value_name = "SHARE", default_value = "0.04", value_parser = grain, allow_negative_numbers = true)]
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

fn grain(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..1.0).contains(&number) => Ok(number),
        _ => Err("a number from 0 to 1, and below 1, is wanted".to_owned()),
    }
}

/// What becomes of pictures.
struct Task<'a> {
    model: &'a LoadedModel,
    plan: SamplingPlan,
    given: Given,
    from: Option<u32>,
    to: Vec<Option<u32>>,
    guided: Control,
    /// Steps that noise on the pictures stands for.
    grain: usize,
    seed: u64,
    device: &'a Device,
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
    let plan = plan(args.steps, &found.model)?;
    let given = Given::open(&args.picture, model.image_shape, &found.prepared(), device)?;
    let steps = plan.steps().len();
    let grain = (args.grain * steps as f64).round() as usize;
    // Few steps are no reason to leave out what was asked for.
    let grain = grain.max(usize::from(args.grain > 0.0)).min(steps - 1);
    let task = Task { model: &found.model, plan, given, from, to, guided, grain, seed: args.seed, device };
    let files: Vec<(usize, PathBuf)> = task.files(&args.out).collect();
    task.given.check_results(files.iter().map(|(picture, file)| (*picture, file.as_path())))?;
    let drawn = [("--grid", &args.grid), ("--gif", &args.gif)];
    check_spares(&task.given.paths, &drawn, files.into_iter().map(|(_, file)| file))?;
    make_folder(&args.out)?;

    let start = Instant::now();
    let Some((rows, error)) = task.draw(&args.out, trajectory, quiet)? else { return Ok(stopped(&args.out)) };
    let named = |class: Option<u32>| task.guided.class_name(class).to_owned();
    let targets: Vec<String> = task.to.iter().map(|class| named(*class)).collect();
    if let Some(path) = &args.grid {
        let columns = [format!("given: {}", named(from)), "and back".to_owned()];
        write_grid(path, rows, &columns.into_iter().chain(targets.iter().cloned()).collect::<Vec<_>>())?;
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
type Drawn = (Vec<(String, Vec<Picture>)>, WayBack);

impl Task<'_> {
    /// The file of each picture as each class.
    fn files(&self, out: &Path) -> impl Iterator<Item = (usize, PathBuf)> {
        let pictures = 0..self.given.paths.len();
        pictures
            .flat_map(move |picture| self.to.iter().map(move |to| (picture, self.file(out, picture, *to))))
    }

    fn file(&self, out: &Path, picture: usize, class: Option<u32>) -> PathBuf {
        self.given.result(out, picture, &[self.guided.class_folder(class).to_owned()])
    }

    /// All results, batch by batch; PNGs are written as they come, and `trajectory` follows the first. None if interrupted.
    fn draw(&self, out: &Path, mut trajectory: Trajectory, quiet: bool) -> anyhow::Result<Option<Drawn>> {
        let (steps, count) = (self.plan.steps().len(), self.given.paths.len());
        // There, back, and to each class.
        let ways = 2 + self.to.len();
        let mut bar = Progress::new("editing", (count.div_ceil(BATCH) * ways * steps) as u64, quiet);
        let (mut rows, mut error) = (Vec::new(), WayBack::default());
        for (batch, first) in (0..count).step_by(BATCH).enumerate() {
            if interrupt::flow().is_break() {
                return Ok(None);
            }
            let pictures = self.given.images.narrow(0, first, BATCH.min(count - first))?;
            let n = pictures.dim(0)?;
            let mut way = batch * ways;
            let plain = Control::unguided(&self.model.description);
            let mut on_way = |control: &Control,
                              class,
                              mut follow: Option<&mut Trajectory>,
                              work: &Way<'_>|
             -> anyhow::Result<Option<Tensor>> {
                let mut failed = None;
                let mut observe = |done: usize, seen: Option<&diffusion_sample::Progress<'_>>| {
                    bar.advance((way * steps + done) as u64, || {
                        format!("pictures {}-{} of {count}, step {done}/{steps}", first + 1, first + n)
                    });
                    if let (Some(trajectory), Some(seen)) = (&mut follow, seen)
                        && let Err(e) = trajectory.add(seen)
                    {
                        failed = Some(e);
                        return ControlFlow::Break(());
                    }
                    interrupt::flow()
                };
                let result = control.with_denoiser(self.model, &vec![class; n], IN_RANGE, |denoiser| {
                    unless_cancelled(work(denoiser, &mut observe))
                })?;
                way += 1;
                failed.map_or(Ok(result), Err)
            };
            let request = SampleRequest {
                seed: self.seed,
                indices: (first as u64..(first + n) as u64).collect(),
                image_shape: self.model.description.image_shape,
                device: self.device,
            };
            let (grained, front) = with_grain(&pictures, self.grain, &self.plan, &request)?;
            let Some(noise) = on_way(&plain, self.from, None, &|denoiser, observe| {
                to_noise(&grained, denoiser, &front, ITERATIONS, &mut |done| observe(done, None))
            })?
            else {
                return Ok(None);
            };
            let drawn: &Way<'_> = &|denoiser, observe| {
                from_noise(&noise, denoiser, &self.plan, &mut |p| observe(p.done, Some(&p)))
            };
            let Some(back) = on_way(&plain, self.from, None, drawn)? else { return Ok(None) };
            let back = back.clamp(-1f32, 1f32)?;
            error.add(&pictures, &back)?;
            let mut columns = vec![picture::from_tensor(&pictures)?, picture::from_tensor(&back)?];
            for (place, class) in self.to.iter().enumerate() {
                let follow = (batch == 0 && place == 0).then_some(&mut trajectory);
                let Some(result) = on_way(&self.guided, *class, follow, drawn)? else { return Ok(None) };
                let results = picture::from_tensor(&result.clamp(-1f32, 1f32)?)?;
                for (number, result) in (first..).zip(&results) {
                    result.write_png(&self.file(out, number, *class))?;
                }
                columns.push(results);
            }
            for number in (first..first + n).take_while(|number| *number < GRID) {
                let row = columns.iter().map(|column| column[number - first].clone()).collect();
                rows.push((self.given.name(number), row));
            }
        }
        bar.finish();
        trajectory.finish()?;
        Ok(Some((rows, error)))
    }
}

/// From pictures to noise or from noise to pictures, by a denoiser; told how many steps are done, and what a step towards pictures saw.
type Way<'a> = dyn Fn(
        &dyn diffusion_process::Denoiser,
        &mut dyn FnMut(usize, Option<&diffusion_sample::Progress<'_>>) -> ControlFlow<()>,
    ) -> Result<Tensor, EditError>
    + 'a;
