//! `diffusion train`.

mod display;
mod estimate;
mod run_folder;
mod settings;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, LoaderConfig};
use diffusion_eval::{ImageSet, SampleEvaluator, TrainingSet};
use diffusion_model::{ModelClass, RunLayout};
use diffusion_train::{
    Checkpoint, Checks, Conditional, Outcome, RunDir, SampleJudge, TrainConfig, Trainer,
    TrainingPrecision, VALIDATION_COPIES, ValidationSet, start_from,
};

use self::display::TrainingDisplay;
use self::estimate::TrainingEstimate;
use self::run_folder::{create_run, open_run, restore};
use crate::args::data;
use crate::args::judging::{self, JudgeArgs, Pictures};
use crate::args::numbers::{positive, whole};
use crate::args::{one_of, runs};
use crate::session::interrupt;
use crate::session::progress::clock;
use crate::session::usage::{bail_usage, with_advice};

/// Train a diffusion model, by default on handwritten digits for 5 minutes
///
/// Without arguments, the command trains on 10,000 digits of MNIST and saves the run to a new
/// folder in runs/. Settings come from three layers: a preset, then the file of --config, then
/// flags. Each layer overrides the one before. Training ends at the first limit reached of --steps,
/// --epochs and --max-minutes. Ctrl-C saves the run and stops; --resume continues it.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion train\n  diffusion train --preset colour-32 --data photos --max-minutes 60\n  \
                        diffusion train --preset tutorial --data DIR --steps 300\n  \
                        diffusion train --run-dir runs/mnist-1 --resume --steps 2000\n  \
                        diffusion train --init-from runs/mnist-1 --data DIR --lr 1e-4\n  \
                        diffusion train --preset digits-attn --dry-run",
    mut_arg("data", |arg| arg.display_order(2).help(
        "Pictures to train on: a folder, an archive, a data file, a downloaded set or \
         hf:OWNER/NAME [default: 10,000 embedded digits]"
    ).long_help(
        "Pictures to train on: a folder, an archive, a data file, a downloaded set or \
         hf:OWNER/NAME [default: 10,000 embedded digits]\n\n\
         Accepted: a folder of PNG, JPEG, WebP, BMP, GIF or TIFF files; a tar or zip archive; a parquet, \
         npy, npz or IDX file; binary batches of CIFAR; the name of a set fetched by `diffusion data \
         download` (mnist, fashion-mnist or cifar10); hf:OWNER/NAME, hf:OWNER/NAME:SPLIT or \
         hf:OWNER/NAME:CONFIG/SPLIT for a data set of the Hugging Face hub. Classes come from the \
         first level of folders, from the labels of a data file, or from tables in folders above \
         the pictures: metadata.csv, labels.csv, metadata.jsonl or metadata.parquet with the \
         columns file_name (a path below the table's folder) and label."
    )),
    mut_arg("size", |arg| {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        arg.long_help(format!(
            "{help}\n\nThe default network needs a multiple of 4 (preset cifar10: 8)."
        ))
    })
)]
pub(crate) struct TrainArgs {
    /// Start from a preset: mnist, digits-attn, colour-32, cifar10 or tutorial [default: mnist]
    ///
    /// mnist trains good digits in 5 minutes on a CPU. digits-attn is the same recipe for a network
    /// with attention. colour-32 is for coloured pictures of 32×32 pixels and an hour on a CPU.
    /// cifar10 is the CIFAR-10 recipe of the DDPM paper (Ho et al. 2020) with 800,000 updates.
    /// tutorial is the recipe of Learn AI Series #84 (Generative Images – Diffusion Models, Part
    /// 1); its schedule does not end in pure noise, and training warns about it.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Read settings from a TOML file; they override the preset's
    ///
    /// The file may set any part of a configuration; --dry-run prints a whole one. Flags override
    /// the file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Save the run to this folder [default: a new folder runs/NAME-N]
    ///
    /// NAME is the given preset, otherwise the name of the data, otherwise mnist. The folder is
    /// created if missing and must not hold another run. With --resume: the run to continue.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Continue the run in --run-dir from its newest checkpoint
    ///
    /// Without a limit, the training continues to the run's old limit. A new --steps, --epochs or
    /// --max-minutes replaces the old limit; it counts from the start of the run, not from now.
    /// Settings that change the training, such as --lr and --batch-size, cannot be given. Without a
    /// time limit, the result equals that of an uninterrupted run bit for bit.
    #[arg(long, requires = "run_dir")]
    resume: bool,
    /// Start from the EMA weights of the run or checkpoint in this folder
    ///
    /// The new run takes over the network, schedule, prediction type, image size and class
    /// conditioning, which --config can override. Classes are matched by name. Use it to fine-tune
    /// a model on other pictures.
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    init_from: Option<PathBuf>,
    /// Condition the network on each picture's class [default: never in cifar10 and tutorial, else
    /// auto]
    ///
    /// auto: condition if the pictures have two or more classes. always: fail if they have none;
    /// --conditional alone means always. Classes come from folders or labels. `sample --class` and
    /// classifier-free guidance (Ho & Salimans 2022) need a conditional model.
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always", value_parser = one_of(&Conditional::ALL, Conditional::name))]
    conditional: Option<Conditional>,
    /// Stop after N updates; at least 1 [default: 800,000 in cifar10, else no limit]
    ///
    /// --steps, --epochs and --max-minutes replace all limits of the preset and the file. The
    /// number of updates, unlike a time limit, makes a run reproducible.
    #[arg(long, value_name = "N", value_parser = whole(1..))]
    steps: Option<u64>,
    /// Stop after N passes over the pictures; at least 1 [default: 5 in tutorial, else no limit]
    ///
    /// A pass has whole batches only; the pictures that are left over come in other passes.
    /// Replaces all limits of the preset and the file.
    #[arg(long, value_name = "N", value_parser = whole(1..))]
    epochs: Option<u64>,
    /// Stop after M minutes; above 0 [default: 60 in colour-32, no limit in cifar10 and
    /// tutorial, else 5]
    ///
    /// The decay of the learning rate is planned to end at that time. A resumed run counts the
    /// minutes that it had before. Replaces all limits of the preset and the file.
    #[arg(long, value_name = "M", value_parser = positive, allow_negative_numbers = true)]
    max_minutes: Option<f64>,
    /// Pictures per update; at least 1 [default: 128 in cifar10, 64 in tutorial, else 32]
    ///
    /// Memory is the only upper limit. Larger batches need more memory and time per update.
    #[arg(long, value_name = "N", value_parser = whole(1..))]
    batch_size: Option<u64>,
    /// Base learning rate; above 0 [default: 0.0002 in cifar10, 0.001 in tutorial, else 0.002]
    ///
    /// The warm-up rises to this rate, and the decay falls from it. Use a smaller rate for
    /// fine-tuning.
    #[arg(long, value_name = "RATE", value_parser = positive, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Number format in which the network multiplies: f32, bf16 or auto [default: auto in
    /// colour-32, else f32]
    ///
    /// bf16 (bfloat16) is faster on CPUs with AVX512-BF16 and on GPUs; on other CPUs, the training
    /// is in f32. Weights, gradients and all other numbers stay f32; a GPU rounds the results of
    /// products to bf16, too. auto: bf16 if the device has it. The run saves the choice.
    #[arg(long, value_name = "FORMAT", value_parser = one_of(&TrainingPrecision::ALL, TrainingPrecision::name))]
    precision: Option<TrainingPrecision>,
    /// Save averages of the weights N times, evenly over the training, 0 to 100 [default: 0]
    ///
    /// `evaluate ema` then computes moving averages of any length from them and finds the best one
    /// (Karras et al. 2024). The training needs memory for two more copies of the weights, and
    /// each of the N files takes the space of one copy. 16 is enough for most trainings.
    #[arg(long, value_name = "N", value_parser = whole(..=100))]
    averages: Option<u64>,
    /// Generate and evaluate images every N updates and at the end; 0: never [default: never, but
    /// every 500 updates for copies only in a training on 100 to 2000 pictures]
    ///
    /// The metrics are those of `evaluate samples`. They are written to metrics.jsonl and to the
    /// run's page. The time counts towards --max-minutes.
    #[arg(long, value_name = "N", value_parser = whole(0..))]
    eval_every: Option<u64>,
    /// Images to generate for each evaluation of --eval-every; 64 to 100,000
    ///
    /// More images give more precise metrics and take longer.
    #[arg(long, value_name = "N", default_value = "500", requires = "eval_every", value_parser = whole(64..=100_000))]
    eval_num: u64,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Print configuration, parameters, memory, time and disk space, then exit without training
    ///
    /// The estimates come from 5 real updates. No run is created.
    #[arg(long)]
    dry_run: bool,
    /// Also write the metrics as TensorBoard event files, to tensorboard/ in the run's folder
    #[arg(long)]
    tensorboard: bool,
    /// Seed of the weights, picture order, noise and timesteps; 0 to 2^63 - 1 [default: 0]
    #[arg(long, value_name = "SEED", value_parser = whole(..1 << 63))]
    seed: Option<u64>,
    #[command(flatten)]
    data: data::DataArgs,
}

impl TrainArgs {
    /// The flags that the run's configuration does not save, as text for a command line.
    fn unsaved_flags(&self) -> String {
        let evaluation = self
            .eval_every
            .map(|every| format!(" --eval-every {every} --eval-num {}", self.eval_num));
        let path = |flag, path: &Option<PathBuf>| {
            path.as_deref().map(|path| format!(" {flag} {}", runs::quoted(path)))
        };
        let tensorboard = self.tensorboard.then(|| " --tensorboard".to_owned());
        let flags = [
            evaluation,
            path("--against", &self.judge.against),
            path("--judge", &self.judge.judge),
            path("--inception", &self.judge.inception),
            tensorboard,
        ];
        flags.into_iter().flatten().collect()
    }
}

/// The numbers of pictures that a training soon memorises. Copies are then searched for by default.
const SMALL_SETS: RangeInclusive<usize> = 100..=2000;
/// The share of a small set that is kept for validation by default.
const VALIDATION_OF_SMALL_SETS: f64 = 0.1;
/// The number of steps between two searches for copies in a training on a small set, and the number
/// of images that are sampled for each.
const COPIES_EVERY: u64 = 500;
const COPIES_OF: u64 = 64;
/// The largest number of values of a set in which copies are searched for by default: they are kept
/// in memory twice, as floats.
const MOST_VALUES: usize = 1 << 25;

pub(crate) fn run(args: &TrainArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    if args.eval_every.is_none()
        && let Some(flag) = args.judge.given()
    {
        bail_usage!("{flag} needs --eval-every, which sets how often images are evaluated");
    }
    let existing = if args.resume { Some(open_run(args)?) } else { None };
    let origin = args.init_from.as_deref().map(RunLayout::checkpoint_at).transpose()?;
    let file = args.config.as_deref().map(settings::read_file).transpose()?;
    let mut config = match &existing {
        Some(run_dir) => settings::resumed(args, run_dir)?,
        None => settings::new(args, file.as_ref(), origin.as_deref(), device)?,
    };
    let trained = existing.as_ref().and_then(|run| run.layout().latest_checkpoint().ok());
    let size = match (config.size, &trained) {
        (None, Some(checkpoint)) => data::trained_side(checkpoint)?,
        (size, _) => size,
    };
    let source = data::open(config.data.as_deref())?;
    let prepared =
        data::prepare_pictures(&source, size, &config.pictures, &args.data.cache, quiet)?;
    data::report_damaged(&prepared.report.damaged);
    let (mut dataset, mut validation) = data::select(prepared.dataset, &config.pictures)?;
    let is_chosen = existing.is_some()
        || origin.is_some()
        || args.data.pictures.validation.is_some()
        || file.is_some_and(|file| file.sets(&["pictures", "validation"]));
    if !is_chosen && validation.is_none() && SMALL_SETS.contains(&dataset.len()) {
        let (training, others) = data::split_by_default(dataset, VALIDATION_OF_SMALL_SETS);
        if others.is_some() {
            config.pictures.validation = VALIDATION_OF_SMALL_SETS;
        }
        (dataset, validation) = (training, others);
    }
    // A resumed run has the same sum as a new one.
    let all = dataset.len() + validation.as_ref().map_or(0, ImageDataset::len);
    let mut trainer = config.trainer(&dataset, device)?;
    log_repeats(&config, dataset.len());
    for class in trainer.description().classes.iter().filter(|class| class.pictures == 0) {
        tracing::warn!("the class {} has no training pictures", class.name);
    }
    let mut checks = Checks::default();
    let training = TrainingSet {
        images: Pictures(dataset.clone()),
        held_out: validation.clone().map(Pictures),
        path: config.data.clone(),
        mirrored: config.pictures.flip,
    };
    let is_small = SMALL_SETS.contains(&all);
    checks.judge = sample_judge(args, &config, &training, is_small, device, quiet)?;
    if args.dry_run {
        return dry_run(args, &config, &mut trainer, device);
    }
    let run_dir = if let Some(run_dir) = existing {
        restore(&mut trainer, &run_dir, device)?;
        run_dir
    } else {
        if let Some(origin) = &origin {
            start_from(&mut trainer, origin).map_err(with_advice)?;
            tracing::info!("starting from the weights of {}", origin.display());
            warn_of_other_classes(&trainer, origin)?;
        }
        create_run(args, &trainer)?
    };
    tracing::info!(
        "training on {}",
        data::describe(config.data.as_deref(), &source, &prepared.report, &dataset)
    );
    if let Some(validation) = validation {
        tracing::info!("{} other pictures are kept for validation", validation.len());
        checks.validation = Some(ValidationSet::new(&validation, &trainer)?);
    }
    tracing::info!(
        "{} on {} threads, run folder {}",
        crate::session::device::name(device),
        rayon::current_num_threads(),
        run_dir.path().display()
    );
    if let Some(schedule) = trainer.objective().schedule() {
        super::warn_of_terminal_snr(schedule);
    }
    let start = trainer.steps_done();
    let outcome = TrainingDisplay::new(&trainer, &run_dir, args.tensorboard, quiet)?
        .train(&mut trainer, &checks)?;
    Ok(print_outcome(outcome, start, &trainer, &run_dir, args))
}

/// What evaluates generated images during the training, if anything does: the metrics of
/// --eval-every, or a search for copies if the set of pictures is small.
fn sample_judge(
    args: &TrainArgs,
    config: &TrainConfig,
    training: &TrainingSet<Pictures>,
    is_small: bool,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<Option<SampleJudge>> {
    let shape = training.images.shape();
    let fits = training.images.len() * shape.iter().product::<usize>() <= MOST_VALUES;
    let (evaluator, every, num) = match args.eval_every {
        Some(0) => return Ok(None),
        Some(every) => {
            let (settings, cache) = (&config.pictures, &args.data.cache);
            let evaluator =
                args.judge.evaluator(shape, Some(training), settings, cache, device, quiet)?;
            let description = judging::description(&evaluator);
            tracing::info!("every {every} steps, {} images are {description}", args.eval_num);
            (evaluator, every, args.eval_num)
        }
        None if is_small && fits => {
            let evaluator = SampleEvaluator::new(shape, None, Some(training), device)?;
            tracing::info!(
                "every {COPIES_EVERY} steps, {COPIES_OF} images are checked for copies of the \
                 training pictures; --eval-every 0 turns this off"
            );
            (evaluator, COPIES_EVERY, COPIES_OF)
        }
        None => return Ok(None),
    };
    // Sets with pictures that are nearly alike have copies among the validation pictures, too.
    let others = training.held_out.as_ref().filter(|_| is_small);
    let baseline = others.map(|others| -> anyhow::Result<f64> {
        let images = others.images(0..others.len(), device)?;
        let found = evaluator.evaluate_copies(&images)?;
        Ok(found.map_or(0.0, |found| found.copies))
    });
    let baseline = baseline.transpose()?;
    let name = evaluator.judge().map(|judge| judge.extractor().features_name());
    let judge = Box::new(move |images: &Tensor, classes: &[Option<&str>]| {
        let mut metrics = evaluator.evaluate(images, classes)?.by_key();
        metrics.extend(baseline.map(|share| (VALIDATION_COPIES.to_owned(), share)));
        Ok(metrics)
    });
    let quick = args.eval_every.is_none();
    Ok(Some(SampleJudge { every, num, name, quick, judge }))
}

/// Warns of classes of the model at `origin` that the training does not have, and of new ones.
fn warn_of_other_classes(trainer: &Trainer, origin: &Path) -> anyhow::Result<()> {
    let before = Checkpoint::read_state(origin)?.model.classes;
    let now = &trainer.description().classes;
    let missing_in = |classes: &[ModelClass], others: &[ModelClass]| -> Vec<String> {
        let is_known = |class: &&ModelClass| others.iter().all(|other| other.name != class.name);
        classes.iter().filter(is_known).map(|class| class.name.clone()).collect()
    };
    let (lost, new) = (missing_in(&before, now), missing_in(now, &before));
    if before.is_empty() || lost.is_empty() && new.is_empty() {
        return Ok(());
    }
    if !lost.is_empty() {
        tracing::warn!("classes that this training does not have: {}", lost.join(", "));
    }
    if !new.is_empty() {
        tracing::warn!("classes that the model does not know yet: {}", new.join(", "));
    }
    Ok(())
}

/// Logs that an epoch repeats each picture more often than configured, if it does.
fn log_repeats(config: &TrainConfig, pictures: usize) {
    let (batch_size, repeat) = (config.batch_size, config.pictures.repeat);
    let times =
        LoaderConfig { repeat, ..LoaderConfig::new(batch_size, config.seed) }.repeats(pictures);
    if times > repeat {
        tracing::info!(
            "each of the {pictures} pictures is used {times} times per epoch to fill a batch of \
             {batch_size}"
        );
    }
}

/// Runs `--dry-run`.
fn dry_run(
    args: &TrainArgs,
    config: &TrainConfig,
    trainer: &mut Trainer,
    device: &Device,
) -> anyhow::Result<ExitCode> {
    if args.resume {
        bail_usage!(
            "--dry-run cannot be combined with --resume; `{}` describes an existing run",
            runs::program("info")
        );
    }
    print!("{}", config.to_toml()?);
    println!();
    for (part, count) in trainer.parameters().count_by_part() {
        println!("{part:<20} {count:>12} parameters");
    }
    if let Some(run_dir) = &args.run_dir
        && RunDir::open(run_dir).is_ok()
    {
        tracing::warn!("{} already holds a run; training there will fail", run_dir.display());
    }
    if let Some(schedule) = trainer.objective().schedule() {
        super::warn_of_terminal_snr(schedule);
    }
    let estimate = TrainingEstimate::of(trainer);
    let estimate = estimate.at(diffusion_train::measure_pace(trainer)?);
    println!(
        "\n{} on {} threads",
        crate::session::device::name(device),
        rayon::current_num_threads()
    );
    println!("{estimate}");
    Ok(ExitCode::SUCCESS)
}

/// `start` is the step at which this process began.
fn print_outcome(
    outcome: Outcome,
    start: u64,
    trainer: &Trainer,
    run_dir: &RunDir,
    args: &TrainArgs,
) -> ExitCode {
    let (path, step) = (runs::quoted(run_dir.path()), trainer.steps_done());
    match outcome {
        Outcome::Finished => {
            let steps = super::quantity(step as usize, "step", "steps");
            if step == start {
                println!("already trained {steps}; nothing was done");
            } else {
                println!("trained {steps} in {}", clock(trainer.elapsed().as_secs_f64()));
            }
            let grid = run_dir.layout().grid(step);
            if grid.is_file() {
                println!("samples: {}", grid.display());
            }
            println!("report: {}", run_dir.layout().page().display());
            let out = runs::image_folder_name(trainer.config());
            println!("next: {} --run {path} --num 64 --out {out}", runs::program("sample"));
            ExitCode::SUCCESS
        }
        Outcome::Interrupted => {
            println!("stopped at step {step}; everything is saved in {path}");
            println!(
                "continue: {} --run-dir {path} --resume{}",
                runs::program("train"),
                args.unsaved_flags()
            );
            ExitCode::from(interrupt::exit_code())
        }
    }
}
