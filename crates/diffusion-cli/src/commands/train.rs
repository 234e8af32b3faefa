//! `diffusion train`.

mod display;
mod outlook;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use candle_core::{Device, Tensor};
use diffusion_data::LoaderConfig;
use diffusion_eval::TrainingSet;
use diffusion_model::RunLayout;
use diffusion_train::{
    Checkpoint, Checks, Conditional, ConfigSource, DEFAULT_PRESET, HeldOut, Outcome, RunDir,
    SampleJudge, TrainConfig, Trainer, start_from,
};

use self::display::TrainingDisplay;
use self::outlook::Outlook;
use crate::args::data;
use crate::args::judging::{self, JudgeArgs, Pictures};
use crate::args::numbers::positive;
use crate::args::{one_of, runs};
use crate::session::interrupt;
use crate::session::progress::clock;
use crate::session::usage::{bail_usage, first_given, with_advice};

/// Train a model; without arguments on handwritten digits for five minutes
///
/// Flags override the file given by --config, and the file overrides the preset.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion train\n  diffusion train --preset tutorial --data DIR --steps 300\n  \
                        diffusion train --run-dir runs/mnist-1 --resume --steps 2000\n  \
                        diffusion train --init-from runs/mnist-1 --data DIR --lr 1e-4\n  \
                        diffusion train --preset digits-attn --dry-run",
    mut_arg("data", |arg| arg.help(
        "The pictures: a folder, a tar or zip archive, a parquet, npy, npz or IDX file, CIFAR's batches, the name of a \
         downloaded set, hf:OWNER/NAME or hf:OWNER/NAME:SPLIT [default: 10,000 embedded digits]"
    ))
)]
pub(crate) struct TrainArgs {
    /// The recipe to start from: mnist (good digits soon), digits-attn (the same with attention), cifar10 (the DDPM
    /// paper's) or tutorial (the lesson's, to the letter) [default: mnist]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// A TOML file whose fields override the preset's
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    data: data::DataArgs,
    /// The folder of the run [default: a new one in runs/]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Go on with the run in --run-dir
    #[arg(long, requires = "run_dir")]
    resume: bool,
    /// Start from the averaged weights of a run or a checkpoint, with its network, schedule and prediction type
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    init_from: Option<PathBuf>,
    /// Tell the network each picture's class, from folders or labels, so that `sample --class` can ask for one: always, never, or
    /// where there are two classes or more [default: auto in the presets mnist and digits-attn, else never]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always", value_parser = one_of(&Conditional::ALL, Conditional::name))]
    conditional: Option<Conditional>,
    /// Stop after N updates
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Stop after N passes over the data
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,
    /// Stop after M minutes, with the learning rate planned to end there
    #[arg(long, value_name = "M", value_parser = positive, allow_negative_numbers = true)]
    max_minutes: Option<f64>,
    /// Pictures in an update
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch_size: Option<u64>,
    /// The base learning rate
    #[arg(long, value_name = "RATE", value_parser = positive, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Draw images every N steps and at the end, and judge them as `evaluate samples` does: into the metrics and the run's page. The time
    /// counts for --max-minutes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    eval_every: Option<u64>,
    /// Images that --eval-every draws: more make surer figures and take longer
    #[arg(long, value_name = "N", default_value = "500", requires = "eval_every", value_parser = clap::value_parser!(u64).range(64..=100_000))]
    eval_num: u64,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Say what the training would be, from a few real steps, and end: configuration, parameters, memory, time, disk
    #[arg(long)]
    dry_run: bool,
    /// Also write the metrics as TensorBoard's event files, into tensorboard/ of the run's folder
    #[arg(long)]
    tensorboard: bool,
    /// The seed of weights, order, noise and timesteps
    #[arg(long, value_name = "SEED", value_parser = clap::value_parser!(u64).range(..1 << 63))]
    seed: Option<u64>,
}

impl TrainArgs {
    /// The flags that a run does not keep, as they are typed after others.
    fn beside(&self) -> String {
        let every = self
            .eval_every
            .map(|every| format!(" --eval-every {every} --eval-num {}", self.eval_num));
        let path = |flag, path: &Option<PathBuf>| {
            path.as_deref().map(|path| format!(" {flag} {}", runs::typed(path)))
        };
        let tensorboard = self.tensorboard.then(|| " --tensorboard".to_owned());
        let flags = [
            every,
            path("--against", &self.judge.against),
            path("--inception", &self.judge.inception),
            tensorboard,
        ];
        flags.into_iter().flatten().collect()
    }
}

pub(crate) fn run(args: &TrainArgs, device: &Device, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    if args.eval_every.is_none()
        && let Some(flag) = args.judge.given()
    {
        bail_usage!("{flag} says how images are judged; --eval-every says when");
    }
    let existing = if args.resume { Some(open_run(args)?) } else { None };
    let origin = args.init_from.as_deref().map(RunLayout::checkpoint_at).transpose()?;
    let config = match &existing {
        Some(run_dir) => resumed_config(args, run_dir)?,
        None => fresh_config(args, origin.as_deref())?,
    };
    let source = data::open(config.data.as_deref())?;
    let prepared = data::prepared(&source, config.size, &config.pictures, &args.data.cache, quiet)?;
    data::report_damaged(&prepared.report.damaged);
    let (dataset, validation) = data::select(prepared.dataset, &config.pictures)?;
    let mut trainer = config.trainer(&dataset, device)?;
    say_repeats(&config, dataset.len());
    for class in trainer.description().classes.iter().filter(|class| class.pictures == 0) {
        tracing::warn!("there is no picture of the class {} to learn from", class.name);
    }
    let mut checks = Checks::default();
    if let Some(every) = args.eval_every {
        let training = TrainingSet {
            images: Pictures(dataset.clone()),
            held_out: validation.clone().map(Pictures),
            path: config.data.clone(),
            mirrored: config.pictures.flip,
        };
        let shape = dataset.image_shape();
        let evaluator =
            args.judge.evaluator(shape, Some(&training), &args.data.cache, device, quiet)?;
        let how = judging::description(&evaluator);
        tracing::info!("every {every} steps {} images are {how}", args.eval_num);
        let judge = Box::new(move |images: &Tensor| Ok(evaluator.evaluate(images, &[])?.by_key()));
        checks.judge = Some(SampleJudge { every, num: args.eval_num, judge });
    }
    if args.dry_run {
        return rehearse(args, &config, &mut trainer, device);
    }
    let run_dir = if let Some(run_dir) = existing {
        restore(&mut trainer, &run_dir, device)?;
        run_dir
    } else {
        if let Some(origin) = &origin {
            start_from(&mut trainer, origin).map_err(with_advice)?;
            tracing::info!("starting from the weights of {}", origin.display());
        }
        create_run(args, &config)?
    };
    tracing::info!(
        "training on {}",
        data::describe(config.data.as_deref(), &source, &prepared.report, &dataset)
    );
    if let Some(validation) = validation {
        tracing::info!("{} other pictures are kept for validation", validation.len());
        checks.validation = Some(HeldOut::new(&validation, &trainer)?);
    }
    tracing::info!(
        "{} parameters, {} on {} threads, run folder {}",
        trainer.parameters().count(),
        crate::session::device::name(device),
        rayon::current_num_threads(),
        run_dir.path().display()
    );
    if let Some(schedule) = trainer.objective().schedule() {
        super::warn_of_terminal_snr(schedule);
    }
    let outcome = TrainingDisplay::new(&trainer, &run_dir, args.tensorboard, quiet)?
        .train(&mut trainer, &checks)?;
    Ok(conclude(outcome, &trainer, &run_dir, args))
}

/// Says where a pass gives each of the pictures more often than was asked for.
fn say_repeats(config: &TrainConfig, pictures: usize) {
    let (batch_size, asked) = (config.batch_size, config.pictures.repeat);
    let times = LoaderConfig { repeat: asked, ..LoaderConfig::new(batch_size, config.seed) }
        .repeats(pictures);
    if times > asked {
        tracing::info!(
            "a pass gives each of the {pictures} pictures {times} times, as a batch of {batch_size} needs"
        );
    }
}

/// `--dry-run`.
fn rehearse(
    args: &TrainArgs,
    config: &TrainConfig,
    trainer: &mut Trainer,
    device: &Device,
) -> anyhow::Result<ExitCode> {
    if args.resume {
        bail_usage!(
            "--dry-run is for a new training; `{}` describes an old one",
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
        tracing::warn!("{} already holds a run; a training would refuse it", run_dir.display());
    }
    if let Some(schedule) = trainer.objective().schedule() {
        super::warn_of_terminal_snr(schedule);
    }
    let outlook = Outlook::of(trainer);
    let outlook = outlook.at(diffusion_train::rehearse(trainer)?);
    println!(
        "\n{} on {} threads",
        crate::session::device::name(device),
        rayon::current_num_threads()
    );
    println!("{outlook}");
    Ok(ExitCode::SUCCESS)
}

fn open_run(args: &TrainArgs) -> anyhow::Result<RunDir> {
    // clap sees to it that --resume comes with --run-dir.
    Ok(RunDir::resume(args.run_dir.as_deref().unwrap_or_else(|| Path::new("")))?)
}

/// The configuration of a new run, over that of the checkpoint folder `origin` if it starts from one.
fn fresh_config(args: &TrainArgs, origin: Option<&Path>) -> anyhow::Result<TrainConfig> {
    let file = match &args.config {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("--config {}", path.display()))?;
            Some(ConfigSource { path: path.clone(), text })
        }
        None => None,
    };
    let model = origin.map(Checkpoint::read_state).transpose()?.map(|state| state.model);
    let preset = args.preset.as_deref().unwrap_or(DEFAULT_PRESET);
    let mut config = TrainConfig::layered_on(preset, model.as_ref(), file.as_ref())?;
    set_length(&mut config, args);
    let TrainArgs { data, batch_size, lr, seed, .. } = args;
    if data.path.is_some() {
        config.data.clone_from(&data.path);
    }
    if let Some(path) = &config.data {
        config.data = Some(crate::args::data::resolve(path)?);
    }
    data.pictures.apply(&mut config.size, &mut config.pictures);
    if let Some(batch_size) = batch_size {
        config.batch_size = *batch_size as usize;
    }
    if let Some(lr) = lr {
        config.optimizer.lr = *lr;
    }
    if let Some(seed) = seed {
        config.seed = *seed;
    }
    config.conditional = args.conditional.unwrap_or(config.conditional);
    config.validate()?;
    Ok(config)
}

fn resumed_config(args: &TrainArgs, run_dir: &RunDir) -> anyhow::Result<TrainConfig> {
    let mut config = run_dir.read_config()?;
    let flags = [
        ("--preset", args.preset.is_some()),
        ("--config", args.config.is_some()),
        ("--batch-size", args.batch_size.is_some()),
        ("--lr", args.lr.is_some()),
        ("--seed", args.seed.is_some()),
        ("--conditional", args.conditional.is_some()),
    ];
    let pictures = args.data.pictures.apply(&mut config.size, &mut config.pictures);
    if let Some(flag) = pictures.or(first_given(&flags)) {
        bail_usage!("{flag} cannot change in a run that is resumed; start a new run for it");
    }
    set_length(&mut config, args);
    if let Some(path) = &args.data.path {
        config.data = Some(data::resolve(path)?);
    }
    config.validate()?;
    Ok(config)
}

/// A length on the command line replaces the whole length of preset and file.
fn set_length(config: &mut TrainConfig, args: &TrainArgs) {
    let TrainArgs { steps, epochs, max_minutes, .. } = *args;
    if steps.is_some() || epochs.is_some() || max_minutes.is_some() {
        (config.steps, config.epochs, config.max_minutes) = (steps, epochs, max_minutes);
    }
}

fn create_run(args: &TrainArgs, config: &TrainConfig) -> anyhow::Result<RunDir> {
    let path = match &args.run_dir {
        Some(path) => path.clone(),
        None => runs::new_folder(&run_name(args, config))?,
    };
    RunDir::create(&path, config).map_err(with_advice)
}

/// The name of a run: its preset's if that was chosen, else its data's.
fn run_name(args: &TrainArgs, config: &TrainConfig) -> String {
    let data = config
        .data
        .as_deref()
        .and_then(Path::file_stem)
        .map(|stem| stem.to_string_lossy().into_owned());
    let name = args.preset.clone().or(data).unwrap_or_else(|| DEFAULT_PRESET.to_owned());
    name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect()
}

fn restore(trainer: &mut Trainer, run_dir: &RunDir, device: &Device) -> anyhow::Result<()> {
    if !run_dir.layout().has_checkpoint() {
        tracing::warn!("{} has no checkpoint yet; starting from step 0", run_dir.path().display());
        return Ok(());
    }
    let path = run_dir.layout().latest_checkpoint()?;
    let checkpoint = Checkpoint::read(&path, device)?;
    if checkpoint.state.is_adopted() {
        let name = run_dir.path().display();
        bail_usage!(
            "{name} holds an imported model, not a training to go on with; start one by --init-from {name}"
        );
    }
    checkpoint.restore_into(trainer, &path).map_err(with_advice)?;
    tracing::info!("resuming from {} (step {})", path.display(), trainer.steps_done());
    if trainer.is_finished() {
        tracing::warn!(
            "this run is already at its end; give a larger --steps, --epochs or --max-minutes to go on"
        );
    }
    Ok(())
}

fn conclude(outcome: Outcome, trainer: &Trainer, run_dir: &RunDir, args: &TrainArgs) -> ExitCode {
    let (path, step) = (runs::typed(run_dir.path()), trainer.steps_done());
    match outcome {
        Outcome::Finished => {
            println!("trained {step} steps in {}", clock(trainer.elapsed().as_secs_f64()));
            println!("pictures: {}", run_dir.layout().grid(step).display());
            println!("all of it: {}", run_dir.layout().page().display());
            let out = runs::pictures_of(trainer.config());
            println!("next: {} --run {path} --num 64 --out {out}", runs::program("sample"));
            ExitCode::SUCCESS
        }
        Outcome::Interrupted => {
            println!("stopped at step {step}; everything is saved in {path}");
            println!(
                "go on: {} --run-dir {path} --resume{}",
                runs::program("train"),
                args.beside()
            );
            ExitCode::from(interrupt::EXIT_CODE)
        }
    }
}
