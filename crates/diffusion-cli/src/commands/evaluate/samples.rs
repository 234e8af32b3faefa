//! `diffusion evaluate samples`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use diffusion_data::{PictureConfig, Source};
use diffusion_eval::{MetricSpread, SampleEvaluator, SampleReport};
use diffusion_files::write_file;
use diffusion_model::{Generation, ModelError, ModelState, RunLayout, Weights};
use diffusion_sample::{Guidance, SamplerKind};
use serde_json::Value;

use crate::args::data;
use crate::args::judging::{self, JudgeArgs, training_pictures};
use crate::args::one_of;
use crate::args::runs::{FoundModel, ModelArgs};
use crate::args::sampling::sampler_kind;
use crate::session::interrupt;
use crate::session::progress::Progress;
use crate::session::usage::{bail_usage, check_output, first_given};

/// Judge generated images: how near they are to real ones, how varied, how many are copies of training pictures
///
/// Given folders of images, each is judged, and the spread is that of the folders. Given a run, a checkpoint or nothing, images are
/// drawn from the model with --seeds different seeds, and the spread is that of the seeds. Beside them stand as many of the pictures
/// that the model was trained on, where they are known and not themselves what is compared with: what a model without faults would get.
///
/// The Fréchet distance is of all images. Precision, recall, density and coverage are of 3,000, beside 3,000 real ones; copies
/// are looked for among 2,000, of up to 10,000 training pictures. All but the share of copies depend on the number of images;
/// compare equal numbers only. Without features of such images (the digit judge reads 28×28 grey ones, Inception any) copies are all
/// that is looked for.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion evaluate samples --run runs/mnist-1\n  \
                        diffusion evaluate samples digits --against mnist\n  \
                        diffusion evaluate samples runs/mnist-1 --num 10000 --seeds 1 --json quality.json")]
pub(crate) struct SamplesArgs {
    /// Folders of images, or of a run, or of a checkpoint [default: the run that saved last in runs/]
    #[arg(value_name = "DIR", conflicts_with_all = ["run", "checkpoint"])]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    judge: JudgeArgs,
    /// The pictures that a model was trained on, to look for copies of; mnist: the 10,000 that come with the program [default: those
    /// that its run names]
    #[arg(long, value_name = "mnist|PATH")]
    training: Option<PathBuf>,
    /// Images to draw for each seed [default: 2000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(64..=100_000))]
    num: Option<u64>,
    /// Seeds to draw with [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: Option<u64>,
    /// The first seed; the others follow it [default: 0]
    #[arg(long, value_name = "SEED", value_parser = clap::value_parser!(u64).range(..1 << 62))]
    seed: Option<u64>,
    /// The sampler [default: as `sample`]
    #[arg(long, value_name = "NAME", value_parser = one_of(&SamplerKind::ALL, SamplerKind::name))]
    sampler: Option<SamplerKind>,
    /// Sampling steps [default: as `sample`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: Option<u64>,
    /// How far to push the images of a model with classes towards theirs [default: as `sample`]
    #[arg(long, value_name = "SCALE", value_parser = crate::args::numbers::scale, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// Also write everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    cache: data::CacheArgs,
}

impl SamplesArgs {
    /// The number of seeds to draw with.
    fn seeds(&self) -> u64 {
        self.seeds.unwrap_or(SampleReport::SEEDS)
    }
}

/// Sets of images that are judged, each with its name.
struct Judged {
    what: String,
    /// How they were drawn; none: they were there.
    drawn: Option<Drawn>,
    report: SampleReport,
}

/// How sets of images were drawn from a model, one for each seed.
struct Drawn {
    /// None: that of the model that comes with the program.
    checkpoint: Option<PathBuf>,
    sampler: &'static str,
    steps: usize,
    guidance: f64,
    seeds: Range<u64>,
}

pub(super) fn run(args: &SamplesArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    if let Some(path) = &args.json {
        check_output("--json", path)?;
    }
    if let Some(folder) = args.folders.iter().find(|folder| !folder.exists()) {
        bail_usage!(
            "{}: there is no such folder; name folders of images, or the folder of a run or of a checkpoint",
            folder.display()
        );
    }
    let named = match args.folders.as_slice() {
        [] => None,
        [folder] => checkpoint_at(folder)?,
        folders => match folders.iter().find_map(|folder| checkpoint_at(folder).transpose()) {
            Some(found) => bail_usage!("{}: a model is judged alone", found?.display()),
            None => None,
        },
    };
    let judged = if args.folders.is_empty() || named.is_some() {
        let model = match named {
            Some(checkpoint) => ModelArgs { run: None, checkpoint: Some(checkpoint) },
            None => args.model.clone(),
        };
        of_model(args, &model.open(Weights::Ema, device)?, device, quiet)?
    } else {
        let of_drawing = [
            ("--num", args.num.is_some()),
            ("--seeds", args.seeds.is_some()),
            ("--seed", args.seed.is_some()),
            ("--sampler", args.sampler.is_some()),
            ("--steps", args.steps.is_some()),
            ("--guidance", args.guidance.is_some()),
        ];
        if let Some(flag) = first_given(&of_drawing) {
            bail_usage!(
                "{flag} is for drawing images from a model, and {} is not the folder of a run or of a checkpoint",
                args.folders[0].display()
            );
        }
        Some(of_folders(args, device, quiet)?)
    };
    let Some((evaluator, judged)) = judged else {
        println!("stopped before the images were judged");
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    };
    // First what stays, should nobody read the table.
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", as_json(&evaluator, &judged));
        write_file(path, text.as_bytes())?;
    }
    print_table(&evaluator, &judged);
    if judged.drawn.is_some() && judged.report.sets.len() < args.seeds() as usize {
        println!("stopped after {} of {} seeds", judged.report.sets.len(), args.seeds());
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    Ok(ExitCode::SUCCESS)
}

/// The checkpoint that the folder is or has, if it is that of a model.
fn checkpoint_at(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let of_model = folder.join(ModelState::FILE).is_file() || RunLayout::new(folder).is_run();
    Ok(of_model.then(|| RunLayout::checkpoint_at(folder)).transpose()?)
}

fn of_model(
    args: &SamplesArgs,
    found: &FoundModel,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<Option<(SampleEvaluator, Judged)>> {
    let model = &found.model;
    let shape = model.description.image_shape;
    let sampler = sampler_kind(args.sampler, false, model)?;
    let steps = args.steps.map_or(model.objective.default_steps(sampler), |steps| steps as usize);
    let training = args.training.as_deref();
    let checkpoint = found.checkpoint.as_deref();
    let evaluator =
        args.judge.evaluator_of_model(checkpoint, shape, training, &args.cache, device, quiet)?;

    let num = args.num.unwrap_or(SampleReport::IMAGES);
    let first = args.seed.unwrap_or(0);
    let all = num * args.seeds();
    let mut progress = Progress::new("drawing", all, quiet);
    let mut sets = Vec::new();
    for seed in first..first + args.seeds() {
        let generation = Generation {
            sampler: Some(sampler),
            steps: Some(steps),
            seed,
            guidance: args.guidance.map(Guidance::new),
            ..Generation::new(num)
        };
        let before = (seed - first) * num;
        let images = model.generate(&generation, &mut |p| {
            let done = before + p.range.start as u64;
            progress.advance(done, || format!("image {done} of {all}"));
            interrupt::flow()
        });
        let images = match images {
            // What earlier seeds gave is not lost.
            Err(e) if e.is_cancelled() => break,
            Err(ModelError::Guidance(e)) => bail_usage!("--guidance: {e}"),
            Err(ModelError::Schedule(e)) => bail_usage!("--steps {steps}: {e}"),
            images => images?,
        };
        let known = &model.description.classes;
        let indices: Vec<u64> = (0..num).collect();
        let asked = generation.classes.classes(seed, &indices, known);
        let names: Vec<Option<&str>> = asked
            .into_iter()
            .map(|class| class.map(|class| known[class as usize].name.as_str()))
            .collect();
        sets.push((format!("seed {seed}"), evaluator.evaluate(&images, &names)?));
    }
    progress.finish();
    if sets.is_empty() {
        return Ok(None);
    }
    let seeds = first..first + sets.len() as u64;
    let from = match sets.len() {
        1 => format!("from seed {}", seeds.start),
        _ => format!("from each of the seeds {} to {}", seeds.start, seeds.end - 1),
    };
    let guidance = args.guidance.unwrap_or(model.description.guidance().scale);
    let guided =
        if guidance == 1.0 { String::new() } else { format!(" with guidance of {guidance}") };
    let what = format!(
        "{}, {} in {steps} steps{guided}, {num} images {from}",
        found.name(),
        sampler.name()
    );
    let checkpoint = found.checkpoint.clone();
    let drawn = Some(Drawn { checkpoint, sampler: sampler.name(), steps, guidance, seeds });
    let training = evaluator.evaluate_training(num as usize)?;
    Ok(Some((evaluator, Judged { what, drawn, report: SampleReport { sets, training } })))
}

/// The side of the images in `folder`, which are judged as they are.
fn own_size(source: &Source, folder: &Path) -> anyhow::Result<usize> {
    let folder = folder.display();
    match source.common_size(usize::MAX)? {
        Some((width, height)) if width == height => Ok(width),
        Some((width, height)) => {
            bail_usage!("{folder}: its images are {width}×{height}; only square ones can be judged")
        }
        None => bail_usage!(
            "{folder}: its images differ in size, or none can be read; images of one size are judged"
        ),
    }
}

fn of_folders(
    args: &SamplesArgs,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<(SampleEvaluator, Judged)> {
    let mut sets = Vec::new();
    for folder in &args.folders {
        let path = std::path::absolute(folder)?;
        let source = data::open(Some(&path))?;
        let size = own_size(&source, folder)?;
        let prepared =
            data::prepared(&source, Some(size), &PictureConfig::default(), &args.cache, quiet)?;
        data::report_damaged(&prepared.report.damaged);
        sets.push((folder.display().to_string(), prepared.dataset));
    }
    let shape = sets[0].1.image_shape();
    if let Some((name, other)) = sets.iter().find(|(_, set)| set.image_shape() != shape) {
        bail_usage!(
            "{name}: its images are {:?}, those of {} {shape:?}",
            other.image_shape(),
            sets[0].0
        );
    }
    let training = match &args.training {
        Some(path) => Some(training_pictures(path, shape, &args.cache, quiet)?),
        None => None,
    };
    let evaluator = args.judge.evaluator(shape, training.as_ref(), &args.cache, device, quiet)?;
    for (name, set) in &sets {
        judging::check_number(&evaluator, name, set.len())?;
    }
    let counts: Vec<String> =
        sets.iter().map(|(name, set)| format!("{name} ({} images)", set.len())).collect();
    let mut judged = Vec::new();
    for (name, set) in sets {
        let positions: Vec<usize> = (0..set.len()).collect();
        let images: Tensor = set.images(&positions, device)?;
        let classes = set.classes();
        let names: Vec<Option<&str>> = (0..set.len())
            .map(|i| set.label(i).map(|label| classes[label as usize].as_str()))
            .collect();
        judged.push((name, evaluator.evaluate(&images, &names)?));
    }
    let mut report = SampleReport { sets: judged, training: None };
    report.training = evaluator.evaluate_training(report.counts().1)?;
    Ok((evaluator, Judged { what: counts.join(", "), drawn: None, report }))
}

fn print_table(evaluator: &SampleEvaluator, Judged { what, report, .. }: &Judged) {
    println!("{what}");
    println!("{}", judging::description(evaluator));
    for note in report.notes(evaluator) {
        println!("{}", judging::note(&note));
    }
    let training = report.training.as_ref();
    let title = if training.is_some() { "training pictures" } else { "" };
    let line = |name: &str, cells: [String; 3]| {
        let [mean, deviation, training] = cells;
        println!("{}", format!("{name:<28} {mean:>10} {deviation:>10}  {training:>17}").trim_end());
    };
    line("", ["images", "± spread", title].map(str::to_owned));
    let (fewest, most) = report.counts();
    let number = if fewest < most { format!("{fewest}-{most}") } else { most.to_string() };
    line(
        "number",
        [number, String::new(), training.map_or_else(String::new, |t| t.count.to_string())],
    );
    for MetricSpread { title, mean, deviation, training, .. } in report.spreads() {
        let cell =
            |value: Option<f64>| value.map(|value| format!("{value:.4}")).unwrap_or_default();
        line(title, [cell(Some(mean)), cell(deviation), cell(training)]);
    }
    let shares = report.class_shares();
    if !shares.is_empty() {
        let share = |(class, share): (usize, f64)| format!("{class}: {:.1} %", share * 100.0);
        let shares: Vec<String> = shares.into_iter().enumerate().map(share).collect();
        println!("classes as the judge reads them  {}", shares.join("  "));
    }
}

fn as_json(evaluator: &SampleEvaluator, Judged { what, drawn, report }: &Judged) -> Value {
    let mut json = report.as_json(evaluator);
    let drawn = drawn.as_ref();
    for i in 0..report.sets.len() {
        json["sets"][i]["seed"] = drawn.map(|drawn| drawn.seeds.start + i as u64).into();
    }
    json["what"] = what.as_str().into();
    let checkpoint = drawn.and_then(|drawn| drawn.checkpoint.as_deref());
    json["checkpoint"] = checkpoint.map(|path| path.display().to_string()).into();
    json["sampler"] = drawn.map(|drawn| drawn.sampler).into();
    json["steps"] = drawn.map(|drawn| drawn.steps).into();
    json["guidance"] = drawn.map(|drawn| drawn.guidance).into();
    json["seeds"] = drawn.map(|drawn| drawn.seeds.clone().collect::<Vec<_>>()).into();
    json["notes"] = report.notes(evaluator).iter().map(judging::note).collect();
    json
}
