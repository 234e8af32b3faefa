//! `diffusion evaluate samples`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use diffusion_data::{PictureConfig, Source};
use diffusion_eval::{FeatureJudge, MetricSpread, SampleEvaluator, SampleReport};
use diffusion_files::write_file;
use diffusion_model::{Generation, ModelError, ModelState, RunLayout, Weights};
use diffusion_sample::{Guidance, SamplerKind};
use serde_json::Value;

use crate::args::data;
use crate::args::judging::{self, JudgeArgs, training_pictures};
use crate::args::numbers::whole;
use crate::args::one_of;
use crate::args::runs::{FoundModel, ModelArgs};
use crate::args::sampling::sampler_kind;
use crate::session::interrupt;
use crate::session::progress::Progress;
use crate::session::usage::{bail_usage, check_output, first_given};

/// Evaluate generated images: quality, diversity and copies of training pictures
///
/// Every given folder of images is one set. For a run, a checkpoint or no argument, the command
/// generates one set per seed of --seeds. The table shows the mean of each metric and its standard
/// deviation between sets. For comparison it shows the same metrics for an equal number of training
/// pictures, the score of a perfect model; this column is omitted if the training pictures are
/// unknown or used as the reference.
///
/// The Fréchet distance (Heusel et al. 2017) uses all images. Precision and recall (Kynkäänniemi et
/// al. 2019), density and coverage (Naeem et al. 2020) use up to 3,000 generated and 3,000 real
/// images. Copies are searched for in up to 2,000 images, among up to 10,000 training pictures. All
/// metrics but the share of copies depend on the number of images, so compare equal numbers only.
/// By default the features are those of the digit judge, a classifier that needs 28×28 grey images.
/// For other images, train a judge with `train-judge` and name it with --judge, or use --inception;
/// without them, only copies are searched for.
///
/// For folders, --against has the default `mnist` if the images are grey and 28×28 and --training
/// is absent. Other folders need --against or --training.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion evaluate samples --run runs/mnist-1\n  \
                        diffusion evaluate samples digits --against mnist\n  \
                        diffusion evaluate samples runs/mnist-1 --num 10000 --seeds 1 --json quality.json")]
pub(crate) struct SamplesArgs {
    /// Folders of images to evaluate, or the folder of one run or checkpoint [default: the run that
    /// saved last in runs/]
    ///
    /// The images of all folders must be square and of one size, unless --size is given. A folder
    /// may also be any other source that `train --data` accepts, such as an npy file. Without any
    /// run in runs/, the default is the model that comes with the program.
    #[arg(value_name = "DIR", conflicts_with_all = ["run", "checkpoint"])]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Training pictures of the model, among which copies are searched for [default: those of its
    /// run]
    ///
    /// mnist: the 10,000 digits that come with the program. PATH: any source that `train --data`
    /// accepts. Folders of images have no default; without this flag, their copies are not searched
    /// for.
    #[arg(long, value_name = "mnist|PATH")]
    training: Option<PathBuf>,
    /// Images to generate per seed; 64 to 100,000 [default: 2000]
    #[arg(long, value_name = "N", value_parser = whole(64..=100_000))]
    num: Option<u64>,
    /// Number of seeds, one set of images each; 1 to 100 [default: 3]
    ///
    /// With 1 seed there is no standard deviation.
    #[arg(long, value_name = "N", value_parser = whole(1..=100))]
    seeds: Option<u64>,
    /// First seed, which the others follow; 0 to 2^62 - 1 [default: 0]
    #[arg(long, value_name = "SEED", value_parser = whole(..1 << 62))]
    seed: Option<u64>,
    /// Sampler [default: the same as in `sample`]
    #[arg(long, value_name = "NAME", value_parser = one_of(&SamplerKind::ALL, SamplerKind::name))]
    sampler: Option<SamplerKind>,
    /// Sampling steps; 1 to 1,000,000 [default: the same as in `sample`]
    ///
    /// A model with a noise schedule allows at most as many steps as the schedule has timesteps.
    #[arg(long, value_name = "N", value_parser = whole(1..=1_000_000))]
    steps: Option<u64>,
    /// Guidance scale for a class-conditional model; -1000 to 1000 [default: the same as in
    /// `sample`]
    ///
    /// 0 ignores the class, 1 is no extra guidance, larger scales follow the class more strictly
    /// (Ho & Salimans 2022).
    #[arg(long, value_name = "SCALE", value_parser = crate::args::numbers::scale, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// Also write all metrics to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    appearance: data::AppearanceArgs,
    #[command(flatten)]
    cache: data::CacheArgs,
}

impl SamplesArgs {
    /// The number of seeds.
    fn seeds(&self) -> u64 {
        self.seeds.unwrap_or(SampleReport::SEEDS)
    }
}

/// The evaluation of one or more sets of images.
struct Evaluation {
    description: String,
    /// How the images were generated; `None` for images of a folder.
    sampling: Option<SamplingInfo>,
    report: SampleReport,
}

/// How the sets of images were generated, one set per seed.
struct SamplingInfo {
    /// `None` for the model that comes with the program.
    checkpoint: Option<PathBuf>,
    sampler: String,
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
            "{}: there is no such folder; expected folders of images, or the folder of a run or a \
             checkpoint",
            folder.display()
        );
    }
    let named = match args.folders.as_slice() {
        [] => None,
        [folder] => checkpoint_at(folder)?,
        folders => match folders.iter().find_map(|folder| checkpoint_at(folder).transpose()) {
            Some(checkpoint) => bail_usage!(
                "{}: a run or a checkpoint must be the only folder",
                checkpoint?.display()
            ),
            None => None,
        },
    };
    let evaluation = if args.folders.is_empty() || named.is_some() {
        let model = match named {
            Some(checkpoint) => ModelArgs { run: None, checkpoint: Some(checkpoint) },
            None => args.model.clone(),
        };
        if let Some(flag) = args.appearance.given() {
            bail_usage!(
                "{flag} is for folders of images; the pictures of a run are prepared as in its \
                 training"
            );
        }
        evaluate_model(args, &model.open(Weights::Ema, device)?, device, quiet)?
    } else {
        let sampling_flags = [
            ("--num", args.num.is_some()),
            ("--seeds", args.seeds.is_some()),
            ("--seed", args.seed.is_some()),
            ("--sampler", args.sampler.is_some()),
            ("--steps", args.steps.is_some()),
            ("--guidance", args.guidance.is_some()),
        ];
        if let Some(flag) = first_given(&sampling_flags) {
            bail_usage!(
                "{flag} is for sampling from a model, but {} is not the folder of a run or a checkpoint",
                args.folders[0].display()
            );
        }
        Some(evaluate_folders(args, device, quiet)?)
    };
    let Some((evaluator, evaluation)) = evaluation else {
        println!("stopped before the images were evaluated");
        return Ok(ExitCode::from(interrupt::exit_code()));
    };
    // The file comes first: printing ends the program if the output pipe is closed.
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", as_json(&evaluator, &evaluation));
        write_file(path, text.as_bytes())?;
    }
    print_table(&evaluator, &evaluation);
    let sets = evaluation.report.sets.len();
    if evaluation.sampling.is_some() && sets < args.seeds() as usize {
        println!("stopped after {sets} of {} seeds", args.seeds());
        return Ok(ExitCode::from(interrupt::exit_code()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The checkpoint in `folder`, if it is the folder of a run or a checkpoint.
fn checkpoint_at(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let is_model = folder.join(ModelState::FILE).is_file() || RunLayout::new(folder).is_run();
    Ok(is_model.then(|| RunLayout::checkpoint_at(folder)).transpose()?)
}

fn evaluate_model(
    args: &SamplesArgs,
    found: &FoundModel,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<Option<(SampleEvaluator, Evaluation)>> {
    let model = &found.model;
    let shape = model.description.image_shape;
    let method = model.method.as_ref().filter(|_| args.sampler.is_none());
    let kind = sampler_kind(args.sampler, false, model)?;
    let sampler = method.map_or(kind.name(), |method| method.name());
    let default_steps =
        method.map_or_else(|| model.objective.default_steps(kind), |method| method.default_steps());
    let steps = args.steps.map_or(default_steps, |steps| steps as usize);
    let training = args.training.as_deref();
    let checkpoint = found.checkpoint.as_deref();
    let evaluator =
        args.judge.evaluator_of_model(checkpoint, shape, training, &args.cache, device, quiet)?;

    let num = args.num.unwrap_or(SampleReport::IMAGES);
    let first = args.seed.unwrap_or(0);
    let all = num * args.seeds();
    let mut progress = Progress::new("sampling", all, quiet);
    let mut sets = Vec::new();
    for seed in first..first + args.seeds() {
        let generation = Generation {
            sampler: method.is_none().then_some(kind),
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
            // The sets of earlier seeds are kept.
            Err(e) if e.is_cancelled() => break,
            Err(ModelError::Guidance(e)) => bail_usage!("--guidance: {e}"),
            Err(ModelError::Schedule(e)) => bail_usage!("--steps {steps}: {e}"),
            Err(ModelError::Method(e)) => bail_usage!("--steps {steps}: {e}"),
            images => images?,
        };
        let classes = &model.description.classes;
        let indices: Vec<u64> = (0..num).collect();
        let chosen = generation.classes.classes(seed, &indices, classes);
        let names: Vec<Option<&str>> = chosen
            .into_iter()
            .map(|class| class.map(|class| classes[class as usize].name.as_str()))
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
    let description =
        format!("{}, {} in {steps} steps{guided}, {num} images {from}", found.name(), sampler);
    let checkpoint = found.checkpoint.clone();
    let sampler = sampler.to_owned();
    let sampling = Some(SamplingInfo { checkpoint, sampler, steps, guidance, seeds });
    let training = evaluator.evaluate_training(num as usize)?;
    Ok(Some((
        evaluator,
        Evaluation { description, sampling, report: SampleReport { sets, training } },
    )))
}

/// The side of the images in `folder`, which are evaluated without resizing.
fn common_side(source: &Source, folder: &Path) -> anyhow::Result<usize> {
    let folder = folder.display();
    let sizes = source.sizes()?;
    let Some((width, height)) = sizes.most_frequent() else {
        bail_usage!("{folder}: none of its images can be read")
    };
    if let [(odd_width, odd_height, count, name), ..] = sizes.others()[..] {
        let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        bail_usage!(
            "{folder}: its images differ in size, but all must have one size: {name}{more} has \
             {odd_width}×{odd_height} pixels, most others have {width}×{height}"
        );
    }
    if width != height {
        bail_usage!("{folder}: its images are {width}×{height}; they must be square");
    }
    Ok(width)
}

fn evaluate_folders(
    args: &SamplesArgs,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<(SampleEvaluator, Evaluation)> {
    let (mut side, mut settings) = (None, PictureConfig::default());
    args.appearance.apply(&mut side, &mut settings);
    let mut sets = Vec::new();
    for folder in &args.folders {
        let path = std::path::absolute(folder)?;
        let source = data::open(Some(&path))?;
        let size = side.map_or_else(|| common_side(&source, folder), Ok)?;
        let prepared = data::prepare_pictures(&source, Some(size), &settings, &args.cache, quiet)?;
        data::report_damaged(&prepared.report.damaged);
        sets.push((folder.display().to_string(), prepared.dataset));
    }
    let shape = sets[0].1.image_shape();
    if let Some((name, other)) = sets.iter().find(|(_, set)| set.image_shape() != shape) {
        bail_usage!(
            "{name}: its images have shape {:?}, those of {} have {shape:?} (channels, height, width)",
            other.image_shape(),
            sets[0].0
        );
    }
    let training = match &args.training {
        Some(path) => Some(training_pictures(path, shape, &settings, &args.cache, quiet)?),
        None => None,
    };
    let training = training.as_ref();
    let evaluator = args.judge.evaluator(shape, training, &settings, &args.cache, device, quiet)?;
    for (name, set) in &sets {
        judging::check_number(&evaluator, name, set.len())?;
    }
    let counts: Vec<String> =
        sets.iter().map(|(name, set)| format!("{name} ({} images)", set.len())).collect();
    let mut evaluated = Vec::new();
    for (name, set) in sets {
        let positions: Vec<usize> = (0..set.len()).collect();
        let images: Tensor = set.images(&positions, device)?;
        let classes = set.classes();
        let names: Vec<Option<&str>> = (0..set.len())
            .map(|i| set.label(i).map(|label| classes[label as usize].as_str()))
            .collect();
        evaluated.push((name, evaluator.evaluate(&images, &names)?));
    }
    let mut report = SampleReport { sets: evaluated, training: None };
    report.training = evaluator.evaluate_training(report.counts().1)?;
    Ok((evaluator, Evaluation { description: counts.join(", "), sampling: None, report }))
}

fn print_table(evaluator: &SampleEvaluator, Evaluation { description, report, .. }: &Evaluation) {
    println!("{description}");
    println!("{}", judging::description(evaluator));
    for note in report.notes(evaluator) {
        println!("{}", judging::note(&note));
    }
    let training = report.training.as_ref();
    let title = if training.is_some() { "training pictures" } else { "" };
    let line = |name: &str, cells: [String; 3]| {
        let [mean, deviation, training] = cells;
        println!("{}", format!("{name:<42} {mean:>10} {deviation:>10}  {training:>17}").trim_end());
    };
    line("", ["images", "± std", title].map(str::to_owned));
    let (fewest, most) = report.counts();
    let number = if fewest < most { format!("{fewest}-{most}") } else { most.to_string() };
    line(
        "number of images",
        [number, String::new(), training.map_or_else(String::new, |t| t.count.to_string())],
    );
    for MetricSpread { title, mean, deviation, training, .. } in report.spreads() {
        let cell =
            |value: Option<f64>| value.map(|value| format!("{value:.4}")).unwrap_or_default();
        line(title, [cell(Some(mean)), cell(deviation), cell(training)]);
    }
    let shares = report.class_shares();
    if !shares.is_empty() {
        let classes = evaluator.judge().map_or(&[][..], FeatureJudge::classes);
        let shares: Vec<String> = classes
            .iter()
            .zip(shares)
            .map(|(class, share)| format!("{class}: {:.1} %", share * 100.0))
            .collect();
        println!("class frequencies  {}", shares.join("  "));
    }
}

fn as_json(evaluator: &SampleEvaluator, evaluation: &Evaluation) -> Value {
    let Evaluation { description, sampling, report } = evaluation;
    let mut json = report.as_json(evaluator);
    let sampling = sampling.as_ref();
    for i in 0..report.sets.len() {
        json["sets"][i]["seed"] = sampling.map(|sampling| sampling.seeds.start + i as u64).into();
    }
    json["what"] = description.as_str().into();
    let checkpoint = sampling.and_then(|sampling| sampling.checkpoint.as_deref());
    json["checkpoint"] = checkpoint.map(|path| path.display().to_string()).into();
    json["sampler"] = sampling.map(|sampling| sampling.sampler.as_str()).into();
    json["steps"] = sampling.map(|sampling| sampling.steps).into();
    json["guidance"] = sampling.map(|sampling| sampling.guidance).into();
    json["seeds"] = sampling.map(|sampling| sampling.seeds.clone().collect::<Vec<_>>()).into();
    json["notes"] = report.notes(evaluator).iter().map(judging::note).collect();
    json
}
