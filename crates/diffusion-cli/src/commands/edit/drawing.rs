//! What edits by any sampler have in common.

use std::ops::ControlFlow;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use diffusion_data::picture::{self, Picture};
use diffusion_process::Denoiser;
use diffusion_sample::edit::EditError;
use diffusion_sample::{SampleRequest, Sampler, SamplerKind, SamplerOptions};
use diffusion_schedule::SamplingPlan;
use diffusion_train::Weights;

use super::given::{Given, write_grid};
use super::{BATCH, GRID, IN_RANGE, unless_cancelled};
use crate::commands::make_folder;
use crate::commands::progress::Progress;
use crate::commands::sample::trajectory::Trajectory;
use crate::commands::sample::{best_variance, sampler_kind, sampler_names};
use crate::commands::warn_of_terminal_snr;
use crate::control::{Control, ControlArgs};
use crate::interrupt;
use crate::runs::{Found, ModelArgs};
use crate::usage::{check_picture, check_spares, planned};

/// Which pictures are changed, and how they are drawn.
#[derive(clap::Args)]
pub(super) struct DrawingArgs {
    /// The picture, of any size and kind, or a folder of pictures
    #[arg(value_name = "PICTURE")]
    pub(super) picture: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// The sampler [default: as `diffusion sample`]
    #[arg(long, value_name = "NAME", value_parser = sampler_names())]
    sampler: Option<String>,
    /// The steps of a whole way from noise to image [default: as `diffusion sample`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: Option<u64>,
    /// The seed of the noise
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// The folder for the results, PNGs that are named after the pictures
    #[arg(long, value_name = "DIR", default_value = "edited")]
    pub(super) out: PathBuf,
    /// Also write the pictures and their results in rows, up to 16 of each
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
    /// Also write how the first results came to be, beside what the model took them for at each step: animated
    #[arg(long, value_name = "FILE.gif")]
    gif: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
}

/// A result to be made.
struct Item {
    picture: usize,
    class: Option<u32>,
    /// Of its noise.
    index: u64,
    file: PathBuf,
}

/// Pictures, and everything that changes them but the change itself.
pub(super) struct Drawing<'a> {
    args: &'a DrawingArgs,
    pub(super) found: Found,
    pub(super) given: Given,
    pub(super) kind: SamplerKind,
    pub(super) plan: SamplingPlan,
    options: SamplerOptions,
    control: Control,
    classes: Vec<Option<u32>>,
    /// Results of each picture and class.
    num: usize,
    items: Vec<Item>,
    device: &'a Device,
}

/// Pictures that are changed together.
pub(super) struct Batch<'a> {
    /// (N, C, H, W).
    pub(super) pictures: Tensor,
    pub(super) denoiser: &'a dyn Denoiser,
    pub(super) sampler: &'a mut dyn Sampler,
    pub(super) plan: &'a SamplingPlan,
    pub(super) request: &'a SampleRequest<'a>,
    pub(super) progress: &'a mut dyn FnMut(diffusion_sample::Progress<'_>) -> ControlFlow<()>,
}

impl<'a> Drawing<'a> {
    /// Reads the model and the pictures; of each of them and each class, `num` results are wanted. None of these takes the place of a
    /// picture or of one of `others`.
    pub(super) fn open(
        args: &'a DrawingArgs,
        others: &[PathBuf],
        num: impl FnOnce(&Given) -> u64,
        device: &'a Device,
    ) -> anyhow::Result<Self> {
        if let Some(path) = &args.grid {
            check_picture("--grid", path, &["png"])?;
        }
        let found = args.model.open(Weights::Ema, device)?;
        let model = &found.model;
        if let Some(schedule) = model.objective.schedule() {
            warn_of_terminal_snr(schedule);
        }
        let kind = sampler_kind(args.sampler.as_deref(), false, model)?;
        let options = SamplerOptions { variance: best_variance(model), ..SamplerOptions::default() };
        let steps = args.steps.map_or(model.objective.default_steps(kind), |steps| steps as usize);
        let plan = planned(steps, model.objective.usual_plan(steps))?;
        let control = args.control.open(&found, device)?;
        let classes = control.asked_or_none(&model.description)?;
        let given = Given::open(&args.picture, model.description.image_shape, &found.prepared(), device)?;
        let num = num(&given) as usize;
        let mut items = Vec::new();
        for picture in 0..given.paths.len() {
            for class in &classes {
                for number in 0..num {
                    // The same noise for each class, so that one sees what the class changes.
                    let index = (picture * num + number) as u64;
                    let class_mark = (classes.len() > 1).then(|| control.class_folder(*class).to_owned());
                    let number_mark = (num > 1).then(|| number.to_string());
                    let marks: Vec<String> = class_mark.into_iter().chain(number_mark).collect();
                    let file = given.result(&args.out, picture, &marks);
                    items.push(Item { picture, class: *class, index, file });
                }
            }
        }
        given.check_results(items.iter().map(|item| (item.picture, item.file.as_path())))?;
        let inputs: Vec<PathBuf> =
            given.paths.iter().chain(args.control.inputs()).chain(others).cloned().collect();
        let files = [("--grid", &args.grid), ("--gif", &args.gif)];
        check_spares(&inputs, &files, items.iter().map(|item| item.file.clone()))?;
        Ok(Self { args, found, given, kind, plan, options, control, classes, num, items, device })
    }

    /// Results in all.
    pub(super) fn count(&self) -> usize {
        self.items.len()
    }

    /// Has `edit`, which takes `steps` steps, done to all pictures, batch by batch; PNGs are written as they come. Gives those that a grid
    /// shows, or none if interrupted.
    pub(super) fn run(
        &self,
        steps: usize,
        quiet: bool,
        edit: &dyn Fn(Batch<'_>) -> Result<Tensor, EditError>,
    ) -> anyhow::Result<Option<Vec<Picture>>> {
        let mut trajectory = Trajectory::new(None, self.args.gif.as_deref(), None)?;
        make_folder(&self.args.out)?;
        let mut sampler = self.kind.build(&self.options);
        let batches = self.items.len().div_ceil(BATCH) as u64;
        let mut bar = Progress::new("editing", batches * steps as u64, quiet);
        let (mut failed, mut results) = (None, Vec::new());
        for (batch, items) in self.items.chunks(BATCH).enumerate() {
            if interrupt::flow().is_break() {
                bar.finish();
                return Ok(None);
            }
            let chosen = Tensor::from_iter(items.iter().map(|item| item.picture as u32), self.device)?;
            let request = SampleRequest {
                seed: self.args.seed,
                indices: items.iter().map(|item| item.index).collect(),
                image_shape: self.found.model.description.image_shape,
                device: self.device,
            };
            let mut observe = |p: diffusion_sample::Progress<'_>| {
                bar.advance((batch * steps + p.done) as u64, || {
                    let first = batch * BATCH + 1;
                    let last = first + items.len() - 1;
                    format!("{first}-{last} of {}, step {}/{}", self.items.len(), p.done, p.steps)
                });
                if batch == 0
                    && let Err(e) = trajectory.add(&p)
                {
                    failed = Some(e);
                    return ControlFlow::Break(());
                }
                interrupt::flow()
            };
            let pictures = self.given.images.index_select(&chosen, 0)?;
            let classes: Vec<Option<u32>> = items.iter().map(|item| item.class).collect();
            let changed = self.control.with_denoiser(&self.found.model, &classes, IN_RANGE, |denoiser| {
                Ok(edit(Batch {
                    pictures,
                    denoiser,
                    sampler: &mut *sampler,
                    plan: &self.plan,
                    request: &request,
                    progress: &mut observe,
                }))
            })?;
            if let Some(e) = failed.take() {
                return Err(e);
            }
            let Some(changed) = unless_cancelled(changed)? else {
                bar.finish();
                return Ok(None);
            };
            if batch == 0 {
                trajectory.finish()?;
            }
            // A formula of several steps may lead a little beyond what each was kept in.
            let pictures = picture::from_tensor(&changed.clamp(-1f32, 1f32)?)?;
            for (item, picture) in items.iter().zip(&pictures) {
                picture.write_png(&item.file)?;
            }
            if self.args.grid.is_some() {
                let shown = items.iter().zip(pictures).filter(|(item, _)| item.picture < GRID);
                results.extend(shown.map(|(_, picture)| picture));
            }
        }
        bar.finish();
        Ok(Some(results))
    }

    /// Writes the grid, if one is wanted: in each row what is `shown` of a picture, by name, and then its results.
    pub(super) fn write_grid(&self, shown: &[(&str, &Tensor)], results: &[Picture]) -> anyhow::Result<()> {
        let Some(path) = &self.args.grid else { return Ok(()) };
        let columns = self.num.min(GRID);
        let mut names: Vec<String> = shown.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.extend((0..columns).map(|number| number.to_string()));
        let shown = shown.iter().map(|(_, images)| picture::from_tensor(images));
        let shown = shown.collect::<Result<Vec<_>, _>>()?;
        let mut rows = Vec::new();
        for (row, results) in results.chunks(self.num).enumerate() {
            let (picture, class) = (row / self.classes.len(), self.classes[row % self.classes.len()]);
            let mut name = self.given.name(picture);
            if self.classes.len() > 1 {
                name = format!("{name} as {}", self.control.class_name(class));
            }
            let before = shown.iter().map(|pictures| pictures[picture].clone());
            rows.push((name, before.chain(results[..columns].iter().cloned()).collect()));
        }
        write_grid(path, rows, &names)
    }
}
