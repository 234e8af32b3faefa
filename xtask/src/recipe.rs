//! `cargo xtask recipe-bench`: measures the ablation table of docs/recipe.md.

mod curve;
mod data;
mod law;
mod record;
mod rows;
mod tables;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use diffusion_data::{ImageDataset, mnist};
use diffusion_model::{ClassChoice, Generation, LoadedModel, RunLayout};
use diffusion_sample::{Guidance, SamplerKind};
use diffusion_train::{Checkpoint, Trainer, ema_model};
use serde::{Deserialize, Serialize};

use crate::cargo::workspace_root;
use data::{JudgedImages, RecipeData};
use record::{Outcome, print_means, read_record};
use rows::{Recipes, Row};

pub(crate) use curve::{RecipeCurveArgs, run as curve};
pub(crate) use law::{RecipeLawArgs, run as law};
pub(crate) use tables::compare_tables;

/// Train with many recipes, each for the same time on this machine, and judge the results.
///
/// The rows are in xtask/recipes.toml. Each gets the number of steps that fits into the time of
/// --base-steps steps of the file's first row, or into --minutes. All rows are timed in turns
/// before the first training, on all threads, so that other load on the machine affects them alike.
/// After that the numbers of steps are fixed, and the duration of the trainings does not matter.
/// The output ends with the mean of each row and its standard deviation over the seeds.
///
/// By default the recipes train the digits that ship with the program, and the judge is that of
/// `cargo xtask train-judge --for-search`. Small trainings run side by side, one per thread. With
/// --minutes they run one after the other on all threads, and save a checkpoint now and then, from
/// which the next call goes on.
///
/// The record has a line for each training and sampler. Recorded trainings are not repeated, so you
/// can add seeds later and continue a stopped search. A recorded row keeps its number of steps;
/// give a changed row a new name. Without the record, the search starts from the beginning.
#[derive(clap::Args)]
pub(crate) struct RecipeBenchArgs {
    /// Rows to train [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    rows: Vec<String>,
    /// Seeds; each row is trained once per seed
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Time of a training, as a number of steps of the first row
    #[arg(long, value_name = "N", default_value = "800", value_parser = clap::value_parser!(u64).range(10..))]
    base_steps: u64,
    /// Time of a training in minutes, on all threads, instead of --base-steps
    #[arg(long, value_name = "M", conflicts_with = "base_steps")]
    minutes: Option<f64>,
    /// Pictures to train on, with --judge and --against [default: the shipped digits]
    #[arg(long, value_name = "PATH", requires_all = ["judge", "against", "record", "out"])]
    data: Option<PathBuf>,
    /// The judge, a file of `diffusion train-judge`
    #[arg(long, value_name = "FILE", requires = "data")]
    judge: Option<PathBuf>,
    /// Reference pictures that had no part in the training of the models
    #[arg(long, value_name = "PATH", requires = "data")]
    against: Option<PathBuf>,
    /// Number of images to judge
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u64).range(64..))]
    num: u64,
    /// File with the recipes [default: xtask/recipes.toml]
    #[arg(long, value_name = "FILE")]
    recipes: Option<PathBuf>,
    /// Record of the results, a line of JSON for each training and sampler [default:
    /// assets/figures/recipe.jsonl]
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Folder for checkpoints [default: target/recipe]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Write assets/digits.safetensors, the model that `diffusion sample` uses without a run.
#[derive(clap::Args)]
pub(crate) struct ShipModelArgs {
    /// Run or checkpoint whose EMA weights are rounded to half precision
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
}

pub(crate) fn ship(args: &ShipModelArgs) -> Result<()> {
    let bytes = LoadedModel::pack(&RunLayout::checkpoint_at(&args.from)?)?;
    let path = workspace_root().join("assets/digits.safetensors");
    LoadedModel::unpack(&bytes, "the packed model".as_ref(), &Device::Cpu)?;
    std::fs::write(&path, &bytes).with_context(|| path.display().to_string())?;
    println!("{}: {} bytes", path.display(), bytes.len());
    Ok(())
}

pub(crate) fn run(args: &RecipeBenchArgs) -> Result<()> {
    let file = args.recipes.clone().unwrap_or_else(|| workspace_root().join("xtask/recipes.toml"));
    let recipes = Recipes::read(&file)?;
    let subject = match (&args.data, &args.judge, &args.against) {
        (Some(data), Some(judge), Some(against)) => {
            let first = recipes.row.first().context("the file of recipes has no rows")?;
            RecipeData::of(data, judge, against, &recipes.config(first, 0, 1)?)?
        }
        _ => RecipeData::digits()?,
    };
    let out = args.out.clone().unwrap_or_else(|| workspace_root().join("target/recipe"));
    std::fs::create_dir_all(&out)?;
    let path =
        args.record.clone().unwrap_or_else(|| workspace_root().join("assets/figures/recipe.jsonl"));
    let recorded: Vec<Outcome> = read_record(&path)?;
    let record = File::options().create(true).append(true).open(&path);
    let record = record.with_context(|| format!("--record {}", path.display()))?;
    let bench = Bench { args, recipes: &recipes, subject, out, record };
    let rows = bench.selected_rows()?;
    let mut outcomes: Vec<Outcome> = recorded
        .into_iter()
        .filter(|o| o.count as u64 == args.num && o.minutes == args.minutes)
        .filter(|o| o.judge == args.judge.as_ref().map(|_| bench.subject.name().to_owned()))
        .filter(|o| args.minutes.is_some() || o.base_steps == args.base_steps)
        .collect();
    let budgets = bench.step_budgets(&rows, &outcomes)?;
    outcomes.retain(|o| rows.iter().any(|row| row.name == o.row));
    // Each row is trained once before any row is trained twice, so that a search that is stopped
    // early has compared all rows.
    let mut trainings = Vec::new();
    for &seed in &args.seeds {
        for row in &rows {
            let is_recorded = |sampler: &&String| {
                outcomes
                    .iter()
                    .any(|o| o.row == row.name && o.seed == seed && o.sampler == **sampler)
            };
            let samplers: Vec<&String> =
                row.samplers.iter().filter(|sampler| !is_recorded(sampler)).collect();
            if samplers.is_empty() {
                continue;
            }
            let budget = budgets.get(row.timed()).with_context(|| {
                format!("row {}: paced_as names the unknown row {}", row.name, row.timed())
            })?;
            trainings.push(Training { row, seed, budget, samplers });
        }
    }
    let mut failed = Ok(());
    for outcome in bench.train_all(&trainings) {
        match outcome {
            Ok(of_samplers) => outcomes.extend(of_samplers),
            Err(error) => failed = Err(error),
        }
    }
    print_means(&outcomes);
    failed
}

/// The 10,000 digits that ship with the program.
pub(crate) fn shipped_digits() -> Result<ImageDataset> {
    let read = |name: &str| {
        let path = workspace_root().join("assets/mnist").join(name);
        std::fs::read(&path).with_context(|| path.display().to_string())
    };
    Ok(mnist::from_bytes(
        &read("train-10k-images-idx3-ubyte.gz")?,
        &read("train-10k-labels-idx1-ubyte.gz")?,
    )?)
}

/// The number of timed steps of each row.
const TURNS: u64 = 25;
/// The time between two checkpoints of a long training.
const SAVE_EVERY: Duration = Duration::from_mins(2);

/// The time of a row's step on this machine, and the number of steps of its trainings.
struct StepBudget {
    steps: u64,
    seconds_per_step: f64,
}

/// The progress of a training, in a file next to its checkpoint.
#[derive(Serialize, Deserialize)]
struct Progress {
    steps: u64,
    seconds_per_step: f64,
    /// The loss of each step.
    losses: Vec<f64>,
}

/// A training to run.
struct Training<'a> {
    row: &'a Row,
    seed: u64,
    budget: &'a StepBudget,
    /// The row's samplers that are not recorded yet.
    samplers: Vec<&'a String>,
}

struct Bench<'a> {
    args: &'a RecipeBenchArgs,
    recipes: &'a Recipes,
    subject: RecipeData,
    out: PathBuf,
    record: File,
}

impl Bench<'_> {
    /// The rows of --rows, or all.
    fn selected_rows(&self) -> Result<Vec<&Row>> {
        if self.args.rows.is_empty() {
            return Ok(self.recipes.row.iter().collect());
        }
        let find = |name: &String| {
            let row = self.recipes.row.iter().find(|row| row.name == *name);
            row.with_context(|| format!("--rows: unknown row `{name}`"))
        };
        self.args.rows.iter().map(find).collect()
    }

    fn trainer(&self, row: &Row, seed: u64, steps: u64) -> Result<Trainer> {
        Ok(self.recipes.config(row, seed, steps)?.trainer(&self.subject.pictures, &Device::Cpu)?)
    }

    /// The step budgets for `rows`, by the name of the timed row: those of the `recorded` outcomes,
    /// the others measured.
    fn step_budgets(
        &self,
        rows: &[&Row],
        recorded: &[Outcome],
    ) -> Result<HashMap<String, StepBudget>> {
        let all = &self.recipes.row;
        let mut budgets = HashMap::new();
        for &Outcome { ref row, steps, seconds_per_step, .. } in recorded {
            let timed =
                all.iter().find(|other| other.name == *row).map_or(row.as_str(), Row::timed);
            budgets.insert(timed.to_owned(), StepBudget { steps, seconds_per_step });
        }
        let unknown = |row: &Row| {
            !budgets.contains_key(&row.name) && rows.iter().any(|other| other.timed() == row.name)
        };
        if all.iter().any(unknown) {
            // The first row defines the time of a training.
            let timed = all.iter().enumerate().filter(|(i, row)| *i == 0 || unknown(row));
            let timed: Vec<&Row> = timed.map(|(_, row)| row).collect();
            let seconds = self.seconds_per_step(&timed)?;
            let time = match self.args.minutes {
                Some(minutes) => 60.0 * minutes,
                None => self.args.base_steps as f64 * seconds[0],
            };
            for (row, seconds_per_step) in timed.into_iter().zip(seconds) {
                let steps = ((time / seconds_per_step).round() as u64).max(1);
                budgets.entry(row.name.clone()).or_insert(StepBudget { steps, seconds_per_step });
            }
        }
        Ok(budgets)
    }

    /// The seconds of a step of each row.
    fn seconds_per_step(&self, rows: &[&Row]) -> Result<Vec<f64>> {
        let trainers = rows.iter().map(|row| self.trainer(row, 0, 2 * TURNS));
        let mut trainers = trainers.collect::<Result<Vec<_>>>()?;
        // Other load on the machine only adds time, so the shortest time is the best estimate.
        let mut shortest = vec![f64::INFINITY; trainers.len()];
        for _ in 0..TURNS {
            for (trainer, shortest) in trainers.iter_mut().zip(&mut shortest) {
                // The first step of a turn fills the caches and is not counted.
                trainer.step()?;
                let start = Instant::now();
                trainer.step()?;
                *shortest = shortest.min(start.elapsed().as_secs_f64());
            }
        }
        Ok(shortest)
    }

    /// Runs all trainings: small ones each on one thread, because they finish sooner side by side
    /// than one after the other on all threads.
    fn train_all(&self, trainings: &[Training<'_>]) -> Vec<Result<Vec<Outcome>>> {
        if self.args.minutes.is_some() {
            return trainings.iter().map(|training| self.train(training)).collect();
        }
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            while let Some(training) = trainings.get(next.fetch_add(1, Ordering::Relaxed)) {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
                let outcome =
                    pool.map_err(Into::into).and_then(|pool| pool.install(|| self.train(training)));
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
            }
        };
        thread::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(work);
            }
        });
        outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Trains, or goes on from the checkpoint in `folder`. Returns the trainer and the mean loss of
    /// its last tenth.
    fn trained(&self, training: &Training<'_>, folder: &Path) -> Result<(Trainer, Progress)> {
        let &Training { row, seed, budget, .. } = training;
        let file = folder.with_added_extension("json");
        let is_long = self.args.minutes.is_some();
        let mut progress = Progress {
            steps: budget.steps,
            seconds_per_step: budget.seconds_per_step,
            losses: Vec::new(),
        };
        let resumed = is_long && folder.is_dir() && file.is_file();
        if resumed {
            let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
            progress = serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
        }
        let mut trainer = self.trainer(row, seed, progress.steps)?;
        if resumed {
            Checkpoint::read(folder, &Device::Cpu)?.restore_into(&mut trainer, folder)?;
            println!("{}, seed {seed}: from step {}", row.name, trainer.steps_done());
            progress.losses.truncate(trainer.steps_done() as usize);
        }
        let save = |trainer: &Trainer, progress: &Progress| -> Result<()> {
            // The losses come first, so that a killed process leaves enough of them.
            std::fs::write(&file, serde_json::to_vec(progress)?)?;
            Ok(trainer.checkpoint()?.write(folder)?)
        };
        let mut saved = Instant::now();
        while !trainer.is_finished() {
            progress.losses.push(trainer.step()?.loss);
            if is_long && saved.elapsed() > SAVE_EVERY {
                save(&trainer, &progress)?;
                saved = Instant::now();
            }
        }
        save(&trainer, &progress)?;
        Ok((trainer, progress))
    }

    fn train(&self, training: &Training<'_>) -> Result<Vec<Outcome>> {
        let &Training { row, seed, ref samplers, .. } = training;
        let minutes = self.args.minutes.map_or_else(String::new, |m| format!("-{m}min"));
        let folder = self.out.join(format!("{}-{seed}{minutes}", row.name));
        let trained = self.trained(training, &folder);
        let (trainer, progress) =
            trained.with_context(|| format!("row {}, seed {seed}", row.name))?;
        let losses = &progress.losses;
        let last = &losses[losses.len() - losses.len().div_ceil(10)..];
        let loss = last.iter().sum::<f64>() / last.len() as f64;
        let (model, mut outcomes) = (ema_model(&trainer)?, Vec::new());
        for &sampler in samplers {
            let generation = generation(sampler, self.args.num)?;
            let JudgedImages { quality, classes, class_accuracy, .. } =
                self.subject.generate_and_judge(&model, &generation)?;
            write_sheet(&model, generation, &folder.with_added_extension(sampler))?;
            outcomes.push(Outcome {
                row: row.name.clone(),
                seed,
                base_steps: if self.args.minutes.is_some() { 0 } else { self.args.base_steps },
                minutes: self.args.minutes,
                judge: self
                    .args
                    .judge
                    .as_ref()
                    .map(|_| self.subject.judge.description().name.clone()),
                class_accuracy,
                steps: progress.steps,
                seconds_per_step: progress.seconds_per_step,
                loss,
                sampler: sampler.clone(),
                count: quality.count,
                frechet_distance: quality.frechet_distance,
                sure: classes.sure,
                smallest_class: classes.smallest(),
                precision: quality.agreement.precision,
                recall: quality.agreement.recall,
                coverage: quality.agreement.coverage,
            });
        }
        self.write_outcomes(&outcomes)?;
        Ok(outcomes)
    }

    /// Appends the outcomes of a training to the record, in one write, so that the record has all
    /// of them or none.
    fn write_outcomes(&self, outcomes: &[Outcome]) -> Result<()> {
        let mut lines = String::new();
        for o in outcomes {
            println!(
                "{}, seed {}, {}: Fréchet distance {:.2}",
                o.row, o.seed, o.sampler, o.frechet_distance
            );
            lines += &serde_json::to_string(o)?;
            lines.push('\n');
        }
        Ok((&self.record).write_all(lines.as_bytes())?)
    }
}

/// Writes a picture of the first images next to the checkpoint: ten of each class in columns,
/// or 100 without classes.
fn write_sheet(model: &LoadedModel, like: Generation, path: &Path) -> Result<()> {
    let classes = model.description.classes.len() as u32;
    let mut generation = Generation { num: 100, ..like };
    if classes > 0 {
        generation.classes = ClassChoice::Listed((0..classes).collect());
        generation.num = 10 * u64::from(classes);
    }
    let images = model.generate(&generation, &mut |_| ControlFlow::Continue(()))?;
    let pictures = diffusion_picture::from_tensor(&images.clamp(-1f32, 1f32)?)?;
    let columns = if classes > 0 { classes as usize } else { 10 };
    let sheet = diffusion_picture::grid_with_columns(&pictures, columns)?;
    Ok(sheet.enlarged_for_viewing().write_sheet(&path.with_added_extension("png"))?)
}

/// Parses `ddim:20`, or `ddim:20@1.5` with guidance scale 1.5, for `num` images.
fn generation(text: &str, num: u64) -> Result<Generation> {
    let (plain, scale) = text.split_once('@').unwrap_or((text, "1"));
    let Some((name, steps)) = plain.split_once(':') else {
        bail!("`{text}`: expected SAMPLER:STEPS or SAMPLER:STEPS@SCALE, for example ddim:20")
    };
    let guidance = Guidance::new(scale.parse()?);
    let sampler =
        SamplerKind::from_name(name).with_context(|| format!("unknown sampler `{name}`"))?;
    let steps = steps.parse()?;
    ensure!(steps > 0, "`{text}`: steps must be at least 1");
    Ok(Generation {
        sampler: Some(sampler),
        steps: Some(steps),
        seed: 1000,
        guidance: Some(guidance),
        ..Generation::new(num)
    })
}
