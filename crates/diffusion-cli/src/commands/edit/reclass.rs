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
use super::{GRID, model_note, quantity, report_interrupted};
use crate::args::control::{Control, ControlArgs, find_classes};
use crate::args::numbers::{scale, share_below_1, whole};
use crate::args::runs::ModelArgs;
use crate::commands::make_folder;
use crate::session::generation::{GenerationDisplay, each_batch};
use crate::session::progress::clock;
use crate::session::trajectory::Trajectory;
use crate::session::usage::{bail_usage, check_no_overwrite, check_picture_beside};

/// Turn a picture into one of another class
///
/// Inverts the picture to noise under its own class, then samples from that noise under the new
/// class, both with DDIM (Song et al. 2021). Properties that do not depend on the class remain, for
/// example the slant and stroke of a digit. The model must have classes.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion edit reclass seven.png --from 7 --to 1,2,3 --grid others.png\n  \
                        diffusion edit reclass digits/7 --to all --out others"
)]
pub(crate) struct ReclassArgs {
    /// Picture to edit, or a folder of pictures: PNG, JPEG, WebP, BMP, GIF or TIFF, of any size
    ///
    /// It is resized to the size of the model's images and converted to their channels. It is
    /// cropped or padded as the training pictures were.
    #[arg(value_name = "PICTURE")]
    picture: PathBuf,
    /// Class of the pictures, by name or number, or `none` to invert unconditionally [default: the
    /// name of their folder, if it is a class]
    ///
    /// Numbers count from 0; if all names are numbers, a number is a name. `diffusion info` lists
    /// the classes of a model.
    #[arg(long, value_name = "CLASS", allow_negative_numbers = true)]
    from: Option<String>,
    /// New classes, by name or number, separated by commas; `all` for every class, `none` for
    /// unconditional results
    ///
    /// Each picture gets one result per class.
    #[arg(
        long,
        value_name = "CLASS",
        value_delimiter = ',',
        required = true,
        allow_hyphen_values = true
    )]
    to: Vec<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Guidance scale of the results, -1000 to 1000; 1 = no extra guidance [default: the model's
    /// guidance_scale, or else 1.1; 1 if the model does not support classifier-free guidance]
    ///
    /// Larger values change the class more reliably and preserve less of the picture. The inversion
    /// uses no guidance.
    #[arg(long, value_name = "SCALE", value_parser = scale, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// Number of inversion steps, and of sampling steps; at most the number of training timesteps
    /// [default: 50, or the number of training timesteps if that is smaller]
    ///
    /// Flow and EDM models have no training timesteps and accept 1 to 1,000,000. More steps invert
    /// more exactly.
    #[arg(long, value_name = "N", value_parser = whole(1..=1_000_000))]
    steps: Option<u64>,
    /// Grain: share of the inversion steps that random noise replaces; at least 0 and below 1
    ///
    /// These first steps of the inversion are skipped. Instead, the picture gets as much random
    /// noise as it would have after them. Larger values change the class more reliably and preserve
    /// less of the details, such as the handwriting of a digit. 0 inverts most exactly and changes
    /// least. Try --guidance first if the class changes too little.
    #[arg(long, value_name = "SHARE", default_value_t = GRAIN, value_parser = share_below_1, allow_negative_numbers = true)]
    grain: f64,
    /// Seed of the noise of --grain, 0 to 2^64 - 1
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Folder for the results, PNG files named PICTURE-CLASS.png
    #[arg(long, value_name = "DIR", default_value = "edited")]
    out: PathBuf,
    /// Also write a picture with one row per input, up to 16: the input, its reconstruction and its
    /// results
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
    /// Also write an animation of up to 16 results of the first class in --to: x_t on the left, the
    /// predicted image on the right, one frame per step
    #[arg(long, value_name = "FILE.gif")]
    gif: Option<PathBuf>,
}

/// A change of class with its model, pictures and settings.
struct Task<'a> {
    model: &'a LoadedModel,
    config: SamplingConfig,
    inputs: InputPictures,
    from: Option<u32>,
    to: Vec<Option<u32>>,
    control: Control,
    /// Number of inversion steps that noise replaces.
    grain: usize,
}

pub(super) fn run(args: &ReclassArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.grid {
        check_picture_beside(&args.out, "--grid", path, &["png"])?;
    }
    let trajectory = Trajectory::new(&args.out, None, args.gif.as_deref(), None)?;
    let found = args.model.open(Weights::Ema, device)?;
    let model = &found.model.description;
    let to =
        find_classes("--to", &args.to, &model.classes, model.network.supports_unconditional())?;
    let from = original_class(args, model)?;
    let control = ControlArgs::classifier_free(args.guidance).open(&found, device)?;
    let config = SamplingConfig { seed: args.seed, ..config(args.steps, &found.model)? };
    let inputs = InputPictures::open(
        &args.picture,
        &args.out,
        model.image_shape,
        &found.picture_config()?,
        device,
    )?;
    let steps = config.plan.steps().len();
    let grain = (args.grain * steps as f64).round() as usize;
    // At least one step, unless --grain is 0.
    let grain = grain.max(usize::from(args.grain > 0.0)).min(steps - 1);
    let task = Task { model: &found.model, config, inputs, from, to, control, grain };
    let files: Vec<(usize, PathBuf)> = task.files(&args.out).collect();
    task.inputs.check_results(files.iter().map(|(picture, file)| (*picture, file.as_path())))?;
    let outputs = [("--grid", &args.grid), ("--gif", &args.gif)];
    check_no_overwrite(&task.inputs.paths, &outputs, files.into_iter().map(|(_, file)| file))?;
    make_folder(&args.out)?;

    let start = Instant::now();
    let Some((rows, error)) = task.run(&args.out, trajectory, quiet)? else {
        return Ok(report_interrupted(&args.out));
    };
    let class_name = |class: Option<u32>| task.control.class_name(class).to_owned();
    let targets: Vec<String> = task.to.iter().map(|class| class_name(*class)).collect();
    if let Some(path) = &args.grid {
        let columns = [format!("input: {}", class_name(from)), "reconstruction".to_owned()];
        write_grid(
            path,
            rows,
            &columns.into_iter().chain(targets.iter().cloned()).collect::<Vec<_>>(),
        )?;
    }
    println!(
        "{} changed from {} to {} in {} ({} each way, {} replaced by grain, {}){}",
        task.inputs.names(),
        class_name(from),
        targets.join(", "),
        args.out.display(),
        quantity(steps, "step", "steps"),
        quantity(task.grain, "inversion step", "inversion steps"),
        clock(start.elapsed().as_secs_f64()),
        model_note(&found)
    );
    println!("{}", error.describe());
    Ok(ExitCode::SUCCESS)
}

/// The class of the pictures: --from, or by default the name of their folder.
fn original_class(args: &ReclassArgs, model: &ModelDescription) -> anyhow::Result<Option<u32>> {
    if let Some(name) = &args.from {
        let takes_none = model.network.supports_unconditional();
        return match find_classes("--from", std::slice::from_ref(name), &model.classes, takes_none)?
            .as_slice()
        {
            &[class] => Ok(class),
            _ => bail_usage!("--from {name}: expected exactly one class"),
        };
    }
    let path = args.picture.canonicalize().unwrap_or_else(|_| args.picture.clone());
    let folder = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
    let folder = folder.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match model.classes.iter().position(|class| Some(&class.name) == folder.as_ref()) {
        Some(class) => Ok(Some(class as u32)),
        None => bail_usage!(
            "--from is required: the folder name of {} is not a class of the model; name a class \
             or `none`",
            args.picture.display()
        ),
    }
}

/// The rows of the grid, and the reconstruction error of the pictures.
type ReclassResult = (Vec<(String, Vec<Picture>)>, RoundTripError);

impl Task<'_> {
    /// The index of the picture and the file of each result.
    fn files(&self, out: &Path) -> impl Iterator<Item = (usize, PathBuf)> {
        let pictures = 0..self.inputs.paths.len();
        pictures.flat_map(move |picture| {
            self.to.iter().map(move |to| (picture, self.file(out, picture, *to)))
        })
    }

    fn file(&self, out: &Path, picture: usize, class: Option<u32>) -> PathBuf {
        self.inputs.result(out, picture, &[self.control.class_folder(class).to_owned()])
    }

    /// Generates all results, batch by batch; `trajectory` records the first batch. `None` if
    /// interrupted.
    fn run(
        &self,
        out: &Path,
        trajectory: Trajectory,
        quiet: bool,
    ) -> anyhow::Result<Option<ReclassResult>> {
        let (steps, count, size) =
            (self.config.plan.steps().len(), self.inputs.paths.len(), self.config.batch_size);
        // Inversion, reconstruction, and one pass per class.
        let passes = 2 + self.to.len();
        let mut display =
            GenerationDisplay::new("editing", count.div_ceil(size) * passes * steps, quiet);
        let mut trajectory = Some(trajectory);
        let (mut rows, mut error) = (Vec::new(), RoundTripError::default());
        for first in (0..count).step_by(size) {
            let range = first..count.min(first + size);
            let batch = self.run_batch(&range, out, &mut error, &mut trajectory, &mut display)?;
            let Some(columns) = batch else {
                display.close()?;
                return Ok(None);
            };
            for number in range.take_while(|number| *number < GRID) {
                let row = columns.iter().map(|column| column[number - first].clone()).collect();
                rows.push((self.inputs.name(number), row));
            }
        }
        display.close()?;
        Ok(Some((rows, error)))
    }

    /// The columns of the grid for the pictures at `range`: the pictures, their reconstructions,
    /// and the results of each class. Writes each result at once. `None` if interrupted.
    fn run_batch(
        &self,
        range: &Range<usize>,
        out: &Path,
        error: &mut RoundTripError,
        trajectory: &mut Option<Trajectory>,
        display: &mut GenerationDisplay,
    ) -> anyhow::Result<Option<Vec<Vec<Picture>>>> {
        let pictures = self.inputs.images.narrow(0, range.start, range.len())?;
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
        let sampling = |batch: &mut Batch<'_>| {
            let Batch { denoiser, plan, observer, .. } = batch;
            let observer = &mut |p: diffusion_sample::Progress<'_>| observer(p.done, Some(&p));
            Ok(from_noise(&noise, *denoiser, plan, observer)?.clamp(-1f32, 1f32)?)
        };
        let Some(reconstruction) = self.apply(range, &plain, self.from, &sampling, display)? else {
            return Ok(None);
        };
        error.add(&pictures, &reconstruction)?;
        let mut columns = vec![
            diffusion_picture::from_tensor(&pictures)?,
            diffusion_picture::from_tensor(&reconstruction)?,
        ];
        if let Some(trajectory) = trajectory.take() {
            display.follow(trajectory);
        }
        for class in &self.to {
            let result = self.apply(range, &self.control.guidance, *class, &sampling, display)?;
            let Some(result) = result else { return Ok(None) };
            let results = diffusion_picture::from_tensor(&result)?;
            for (number, result) in range.clone().zip(&results) {
                result.write_png(&self.file(out, number, *class))?;
            }
            columns.push(results);
        }
        Ok(Some(columns))
    }

    /// The result of `operation` under `class` for the batch of pictures at `range`. `None` if
    /// interrupted.
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
