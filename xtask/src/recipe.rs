//! `cargo xtask recipe-bench`: the ablation table of docs/recipe.md.

mod curve;
mod record;
mod rows;
mod tables;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, mnist};
use diffusion_eval::{ClassShares, DigitJudge, Reference, SampleQuality};
use diffusion_model::{Generation, LoadedModel, RunLayout};
use diffusion_sample::{Guidance, SamplerKind};
use diffusion_train::{Trainer, averaged_model};

use crate::cargo::workspace_root;
use crate::judge::SEARCH_JUDGE;
use record::{Outcome, print_means, recorded};
use rows::{Recipes, Row};

pub(crate) use curve::{RecipeCurveArgs, run as curve};
pub(crate) use tables::compare_tables;

/// Train digits by many recipes, each for the same time on this machine, and judge what they draw.
///
/// The rows are in xtask/recipes.toml. Each is given as many steps as take the time of --base-steps steps of the file's first row. All are
/// timed in turns before the first training, on all threads, so that what else the machine does favours none. As the steps are known
/// then, the trainings can go on side by side, one on each thread, and it does not matter how long they take. The judge is that of
/// `cargo xtask train-judge --for-search`. Last comes the mean of each row with the standard deviation over its seeds.
///
/// The record keeps what each training came to. What it has is not trained again, so that seeds can be added later and a search goes on
/// where it stopped; a row that it knows keeps its steps, and one that is changed wants another name. Without the file the search begins anew.
#[derive(clap::Args)]
pub(crate) struct RecipeBenchArgs {
    /// The rows to train [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    rows: Vec<String>,
    /// The seeds, a training each
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// The time of a training, as steps of the first row
    #[arg(long, value_name = "N", default_value = "800", value_parser = clap::value_parser!(u64).range(10..))]
    base_steps: u64,
    /// Digits to judge
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u64).range(64..))]
    num: u64,
    /// The recipes [default: xtask/recipes.toml]
    #[arg(long, value_name = "FILE")]
    recipes: Option<PathBuf>,
    /// What was found, a line of JSON for each training and sampler [default: assets/figures/recipe.jsonl]
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// The folder for checkpoints
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Make assets/digits.safetensors, the model that `diffusion sample` uses before anything was trained, from a run.
#[derive(clap::Args)]
pub(crate) struct ShipModelArgs {
    /// The run, or the checkpoint, whose averaged weights are rounded to half precision
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
    let judge = workspace_root().join(SEARCH_JUDGE);
    let bytes = std::fs::read(&judge).with_context(|| {
        format!("{}: make it by cargo xtask train-judge --for-search", judge.display())
    })?;
    let (judge, reference) = DigitJudge::from_bytes(&bytes, &Device::Cpu)?;
    let digits = shipped_digits()?;
    let out = args.out.clone().unwrap_or_else(|| workspace_root().join("target/recipe"));
    std::fs::create_dir_all(&out)?;
    let path =
        args.record.clone().unwrap_or_else(|| workspace_root().join("assets/figures/recipe.jsonl"));
    let known = recorded(&path)?;
    let record = File::options().create(true).append(true).open(&path);
    let record = record.with_context(|| format!("--record {}", path.display()))?;
    let bench = Bench { args, recipes: &recipes, judge, reference, digits, out, record };
    let chosen = bench.chosen()?;
    let mut outcomes: Vec<Outcome> = known
        .into_iter()
        .filter(|o| o.base_steps == args.base_steps && o.count as u64 == args.num)
        .collect();
    let paces = bench.paces(&chosen, &outcomes)?;
    outcomes.retain(|o| chosen.iter().any(|row| row.name == o.row));
    // Every row once before any row twice: what is stopped early has compared them all.
    let mut trainings = Vec::new();
    for &seed in &args.seeds {
        for row in &chosen {
            let is_known = |sampler: &&String| {
                outcomes
                    .iter()
                    .any(|o| o.row == row.name && o.seed == seed && o.sampler == **sampler)
            };
            let samplers: Vec<&String> =
                row.samplers.iter().filter(|sampler| !is_known(sampler)).collect();
            if samplers.is_empty() {
                continue;
            }
            let pace = paces.get(row.timed());
            let pace =
                pace.with_context(|| format!("row {}: there is no row {}", row.name, row.timed()))?;
            trainings.push(Training { row, seed, pace, samplers });
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

/// Images that were drawn, and what a judge says of them.
struct Judged {
    images: Tensor,
    sampling_seconds: f64,
    quality: SampleQuality,
    classes: ClassShares,
}

fn judged(
    model: &LoadedModel,
    generation: &Generation,
    judge: &DigitJudge,
    reference: &Reference,
) -> Result<Judged> {
    let start = Instant::now();
    let images = model.generate(generation, &mut |_| ControlFlow::Continue(()))?;
    // What an image file keeps of those that were not cut.
    let images = images.clamp(-1f32, 1f32)?;
    let sampling_seconds = start.elapsed().as_secs_f64();
    let verdict = judge.judge(&images)?;
    let quality = reference.quality(&verdict.features)?;
    Ok(Judged { images, sampling_seconds, quality, classes: ClassShares::of(&verdict.logits)? })
}

/// Steps of each row that are timed.
const TURNS: u64 = 25;

/// What a step of a row takes on this machine, and the steps of its trainings.
struct Pace {
    steps: u64,
    seconds_per_step: f64,
}

struct Training<'a> {
    row: &'a Row,
    seed: u64,
    pace: &'a Pace,
    /// Those of the row's that the record lacks.
    samplers: Vec<&'a String>,
}

struct Bench<'a> {
    args: &'a RecipeBenchArgs,
    recipes: &'a Recipes,
    judge: DigitJudge,
    reference: Reference,
    digits: ImageDataset,
    out: PathBuf,
    record: File,
}

impl Bench<'_> {
    fn chosen(&self) -> Result<Vec<&Row>> {
        if self.args.rows.is_empty() {
            return Ok(self.recipes.row.iter().collect());
        }
        let find = |name: &String| {
            let row = self.recipes.row.iter().find(|row| row.name == *name);
            row.with_context(|| format!("there is no row `{name}`"))
        };
        self.args.rows.iter().map(find).collect()
    }

    fn trainer(&self, row: &Row, seed: u64, steps: u64) -> Result<Trainer> {
        Ok(self.recipes.config(row, seed, steps)?.trainer(&self.digits, &Device::Cpu)?)
    }

    /// What a step of each of the rows takes that `rows` are paced as, and how many of them the time allows: as in the `known` outcomes,
    /// or else measured.
    fn paces(&self, rows: &[&Row], known: &[Outcome]) -> Result<HashMap<String, Pace>> {
        let all = &self.recipes.row;
        let mut paces = HashMap::new();
        for &Outcome { ref row, steps, seconds_per_step, .. } in known {
            let timed =
                all.iter().find(|other| other.name == *row).map_or(row.as_str(), Row::timed);
            paces.insert(timed.to_owned(), Pace { steps, seconds_per_step });
        }
        let unknown = |row: &Row| {
            !paces.contains_key(&row.name) && rows.iter().any(|chosen| chosen.timed() == row.name)
        };
        if all.iter().any(unknown) {
            // The first row says how much time there is.
            let contenders = all.iter().enumerate().filter(|(i, row)| *i == 0 || unknown(row));
            let contenders: Vec<&Row> = contenders.map(|(_, row)| row).collect();
            let seconds = self.seconds_per_step(&contenders)?;
            let time = self.args.base_steps as f64 * seconds[0];
            for (row, seconds_per_step) in contenders.into_iter().zip(seconds) {
                let steps = ((time / seconds_per_step).round() as u64).max(1);
                paces.entry(row.name.clone()).or_insert(Pace { steps, seconds_per_step });
            }
        }
        Ok(paces)
    }

    /// What a step of each row takes.
    fn seconds_per_step(&self, rows: &[&Row]) -> Result<Vec<f64>> {
        let contenders = rows.iter().map(|row| self.trainer(row, 0, 2 * TURNS));
        let mut contenders = contenders.collect::<Result<Vec<_>>>()?;
        // What else the machine does only adds to the time: the shortest is the nearest to that of the step itself.
        let mut shortest = vec![f64::INFINITY; contenders.len()];
        for _ in 0..TURNS {
            for (contender, shortest) in contenders.iter_mut().zip(&mut shortest) {
                // The first step of a turn finds the caches full of the others' numbers.
                contender.step()?;
                let start = Instant::now();
                contender.step()?;
                *shortest = shortest.min(start.elapsed().as_secs_f64());
            }
        }
        Ok(shortest)
    }

    /// What becomes of all trainings. Small ones on a thread each end sooner than one after the other on all.
    fn train_all(&self, trainings: &[Training<'_>]) -> Vec<Result<Vec<Outcome>>> {
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            while let Some(training) = trainings.get(next.fetch_add(1, Ordering::Relaxed)) {
                let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build();
                let outcome = alone
                    .map_err(Into::into)
                    .and_then(|pool| pool.install(|| self.train(training)));
                let Training { row, seed, .. } = training;
                let outcome = outcome.with_context(|| format!("row {}, seed {seed}", row.name));
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

    fn train(
        &self,
        &Training { row, seed, pace, ref samplers }: &Training<'_>,
    ) -> Result<Vec<Outcome>> {
        let mut trainer = self.trainer(row, seed, pace.steps)?;
        let mut losses = Vec::new();
        while !trainer.is_finished() {
            losses.push(trainer.step()?.loss);
        }
        let last = &losses[losses.len() - losses.len().div_ceil(10)..];
        let loss = last.iter().sum::<f64>() / last.len() as f64;
        trainer.checkpoint()?.write(&self.out.join(format!("{}-{seed}", row.name)))?;
        let (model, mut outcomes) = (averaged_model(&trainer)?, Vec::new());
        for &named in samplers {
            let generation = generation(named, self.args.num)?;
            let Judged { quality, classes, .. } =
                judged(&model, &generation, &self.judge, &self.reference)?;
            outcomes.push(Outcome {
                row: row.name.clone(),
                seed,
                base_steps: self.args.base_steps,
                steps: pace.steps,
                seconds_per_step: pace.seconds_per_step,
                loss,
                sampler: named.clone(),
                count: quality.count,
                frechet_distance: quality.frechet_distance,
                sure: classes.sure,
                smallest_class: classes.smallest(),
                precision: quality.agreement.precision,
                recall: quality.agreement.recall,
                coverage: quality.agreement.coverage,
            });
        }
        self.report(&outcomes)?;
        Ok(outcomes)
    }

    /// Writes the outcomes of a training, all or none, so that what is in the record need not be done again.
    fn report(&self, outcomes: &[Outcome]) -> Result<()> {
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

/// As `ddim:20` says, or `ddim:20@1.5` with guidance of scale 1.5.
fn generation(named: &str, num: u64) -> Result<Generation> {
    let (plain, scale) = named.split_once('@').unwrap_or((named, "1"));
    let Some((name, steps)) = plain.split_once(':') else {
        bail!("`{named}` is not of the form ddim:20")
    };
    let guidance = Guidance::new(scale.parse()?);
    let sampler =
        SamplerKind::from_name(name).with_context(|| format!("there is no sampler `{name}`"))?;
    let steps = steps.parse()?;
    ensure!(steps > 0, "`{named}` has no steps");
    Ok(Generation {
        sampler: Some(sampler),
        steps: Some(steps),
        seed: 1000,
        guidance: Some(guidance),
        ..Generation::new(num)
    })
}
