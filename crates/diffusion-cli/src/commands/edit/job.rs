//! The common part of `edit vary` and `edit inpaint`, which work with any sampler.

use std::ops::ControlFlow;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use diffusion_model::{Batch, GenerationProgress, Generator, ImageSpec, SamplingConfig, Weights};
use diffusion_picture::Picture;
use diffusion_sample::SamplerKind;
use diffusion_sample::edit::EditError;

use super::GRID;
use super::pictures::{InputPictures, write_grid};
use crate::args::control::{Control, ControlArgs};
use crate::args::numbers::whole;
use crate::args::one_of;
use crate::args::runs::{FoundModel, ModelArgs};
use crate::args::sampling::sampler_kind;
use crate::commands::{make_folder, warn_of_terminal_snr};
use crate::session::generation::{GenerationDisplay, each_batch};
use crate::session::trajectory::Trajectory;
use crate::session::usage::{check_no_overwrite, check_picture_beside, checked_plan};

/// The common flags of `edit vary` and `edit inpaint`.
#[derive(clap::Args)]
pub(super) struct EditArgs {
    /// Picture to edit, or a folder of pictures: PNG, JPEG, WebP, BMP, GIF or TIFF, of any size
    ///
    /// It is resized to the size of the model's images and converted to their channels. It is
    /// cropped or padded as the training pictures were. The results have this size too.
    #[arg(value_name = "PICTURE")]
    pub(super) picture: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Sampling method [default: as for `diffusion sample`, but never the scheduler of an imported
    /// run]
    ///
    /// `diffusion sample --help` describes the methods.
    #[arg(long, value_name = "NAME", value_parser = one_of(&SamplerKind::ALL, SamplerKind::name))]
    sampler: Option<SamplerKind>,
    /// Number of sampling steps from pure noise to image, at most the number of training timesteps
    /// [default: as for `diffusion sample`]
    ///
    /// Flow and EDM models have no training timesteps and accept 1 to 1,000,000.
    #[arg(long, value_name = "N", value_parser = whole(1..=1_000_000))]
    steps: Option<u64>,
    /// Seed of the noise, 0 to 2^64 - 1
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// Folder for the results, PNG files with the names of the pictures
    #[arg(long, value_name = "DIR", default_value = "edited")]
    pub(super) out: PathBuf,
    /// Also write a picture with one row per input: the input and its results, up to 16 of each
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
    /// Also write an animation of up to 16 results: x_t on the left, the predicted image on the
    /// right, one frame per step
    #[arg(long, value_name = "FILE.gif")]
    gif: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
}

/// A result: the index of its picture, and its file.
struct Item {
    picture: usize,
    file: PathBuf,
}

/// Model, pictures and settings of an edit; the edit itself is an argument of [`EditJob::run`].
pub(super) struct EditJob<'a> {
    args: &'a EditArgs,
    pub(super) found: FoundModel,
    pub(super) inputs: InputPictures,
    pub(super) config: SamplingConfig,
    control: Control,
    classes: Vec<Option<u32>>,
    /// Number of results of each picture and class.
    num: usize,
    items: Vec<Item>,
    specs: Vec<ImageSpec>,
}

impl<'a> EditJob<'a> {
    /// Reads the model and the pictures. Each picture gets `num` results for each class. Fails if a
    /// result would overwrite a picture or one of `others`.
    pub(super) fn open(
        args: &'a EditArgs,
        others: &[PathBuf],
        num: impl FnOnce(&InputPictures) -> u64,
        device: &Device,
    ) -> anyhow::Result<Self> {
        if let Some(path) = &args.grid {
            check_picture_beside(&args.out, "--grid", path, &["png"])?;
        }
        let found = args.model.open(Weights::Ema, device)?;
        let model = &found.model;
        if let Some(schedule) = model.objective.schedule() {
            warn_of_terminal_snr(schedule);
        }
        let kind = sampler_kind(args.sampler, false, model)?;
        let steps = args.steps.map_or(model.objective.default_steps(kind), |steps| steps as usize);
        let config = checked_plan(steps, SamplingConfig::new(model, kind, steps))?;
        let config = SamplingConfig { seed: args.seed, ..config };
        let control = args.control.open(&found, device)?;
        let classes = control.requested_or_unconditional(&model.description)?;
        let inputs = InputPictures::open(
            &args.picture,
            &args.out,
            model.description.image_shape,
            &found.picture_config()?,
            device,
        )?;
        let num = num(&inputs) as usize;
        let (mut items, mut specs) = (Vec::new(), Vec::new());
        for picture in 0..inputs.paths.len() {
            for class in &classes {
                for number in 0..num {
                    // All classes get the same noise, so the results show what the class changes.
                    let index = (picture * num + number) as u64;
                    let class_mark =
                        (classes.len() > 1).then(|| control.class_folder(*class).to_owned());
                    let number_mark = (num > 1).then(|| number.to_string());
                    let marks: Vec<String> = class_mark.into_iter().chain(number_mark).collect();
                    let file = inputs.result(&args.out, picture, &marks);
                    items.push(Item { picture, file });
                    specs.push(ImageSpec { index, class: *class });
                }
            }
        }
        inputs.check_results(items.iter().map(|item| (item.picture, item.file.as_path())))?;
        let protected: Vec<PathBuf> =
            inputs.paths.iter().chain(args.control.inputs()).chain(others).cloned().collect();
        let files = [("--grid", &args.grid), ("--gif", &args.gif)];
        check_no_overwrite(&protected, &files, items.iter().map(|item| item.file.clone()))?;
        Ok(Self { args, found, inputs, config, control, classes, num, items, specs })
    }

    /// Number of results.
    pub(super) fn count(&self) -> usize {
        self.items.len()
    }

    /// Applies `edit`, which takes `steps` steps, to all pictures, batch by batch, and writes each
    /// result at once. Returns the results for the grid, or `None` if interrupted.
    pub(super) fn run(
        &self,
        steps: usize,
        quiet: bool,
        edit: &dyn Fn(&Tensor, &mut Batch<'_>) -> Result<Tensor, EditError>,
    ) -> anyhow::Result<Option<Vec<Picture>>> {
        let trajectory = Trajectory::new(&self.args.out, None, self.args.gif.as_deref(), None)?;
        make_folder(&self.args.out)?;
        let batches = self.items.len().div_ceil(self.config.batch_size);
        let mut display = GenerationDisplay::new("editing", batches * steps, quiet);
        display.follow(trajectory);
        let model = &self.found.model;
        let generator =
            Generator { model, config: self.config.clone(), guidance: &self.control.guidance };
        let operation = |batch: &mut Batch<'_>| {
            let items = &self.items[batch.range.clone()];
            let chosen =
                Tensor::from_iter(items.iter().map(|item| item.picture as u32), &model.device)?;
            let pictures = self.inputs.images.index_select(&chosen, 0)?;
            // Multistep formulas may exceed the range that each prediction is clipped to.
            Ok(edit(&pictures, batch)?.clamp(-1f32, 1f32)?)
        };
        let mut observer = |progress: &GenerationProgress<'_>| display.observe(progress);
        let mut results = Vec::new();
        let all = generator.apply(&self.specs, steps, Box::new(operation), &mut observer);
        let flow = each_batch(all, |batch| {
            let pictures = diffusion_picture::from_tensor(&batch.images)?;
            for (item, picture) in self.items[batch.range].iter().zip(pictures) {
                picture.write_png(&item.file)?;
                if self.args.grid.is_some() && item.picture < GRID {
                    results.push(picture);
                }
            }
            Ok(())
        })?;
        display.close()?;
        Ok((flow == ControlFlow::Continue(())).then_some(results))
    }

    /// Writes the grid of --grid. A row has the tensors of `shown`, with their names as headings,
    /// and then the results.
    pub(super) fn write_grid(
        &self,
        shown: &[(&str, &Tensor)],
        results: &[Picture],
    ) -> anyhow::Result<()> {
        let Some(path) = &self.args.grid else { return Ok(()) };
        let columns = self.num.min(GRID);
        let mut names: Vec<String> = shown.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.extend((0..columns).map(|number| number.to_string()));
        let shown = shown.iter().map(|(_, images)| diffusion_picture::from_tensor(images));
        let shown = shown.collect::<Result<Vec<_>, _>>()?;
        let mut rows = Vec::new();
        for (row, results) in results.chunks(self.num).enumerate() {
            let (picture, class) =
                (row / self.classes.len(), self.classes[row % self.classes.len()]);
            let mut name = self.inputs.name(picture);
            if self.classes.len() > 1 {
                name = format!("{name} as {}", self.control.class_name(class));
            }
            let before = shown.iter().map(|pictures| pictures[picture].clone());
            rows.push((name, before.chain(results[..columns].iter().cloned()).collect()));
        }
        write_grid(path, rows, &names)
    }
}
