//! `cargo xtask recipe-bench`: the ablation table of docs/recipe.md.

mod curve;

use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, mnist};
use diffusion_eval::{ClassShares, DigitJudge, Reference, SampleQuality};
use diffusion_sample::{Guidance, SamplerKind};
use diffusion_train::{ConfigSource, Generation, LoadedModel, RunDir, TrainConfig, TrainError, Trainer};
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::check::workspace_root;
use crate::judge::SEARCH_JUDGE;

pub(crate) use curve::{RecipeCurveArgs, run as curve};

/// Train digits by many recipes, each for the same time on this machine, and judge what they draw.
///
/// The rows are in xtask/recipes.toml. Each is given as many steps as take the time of --base-steps steps of the first row; the two are
/// timed in turns, so that a machine's load does not favour any. The judge is that of `cargo xtask train-judge --for-search`.
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
    /// The recipes
    #[arg(long, value_name = "FILE")]
    recipes: Option<PathBuf>,
    /// The folder for results and checkpoints
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
    let bytes = LoadedModel::packed(&RunDir::checkpoint_at(&args.from)?)?;
    let path = workspace_root().join("assets/digits.safetensors");
    LoadedModel::unpacked(&bytes, "the packed model", &Device::Cpu)?;
    std::fs::write(&path, &bytes).with_context(|| path.display().to_string())?;
    println!("{}: {} bytes", path.display(), bytes.len());
    Ok(())
}

/// The file of recipes: `base` and each row's changes to it, whole fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipes {
    base: Table,
    row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    /// As `ddim:20`, or `ddim:20@1.5` with guidance.
    #[serde(default = "samplers")]
    samplers: Vec<String>,
    #[serde(default)]
    change: Table,
}

fn samplers() -> Vec<String> {
    vec!["dpmpp-2m-sde:15".to_owned()]
}

/// A line of results.jsonl.
#[derive(Serialize)]
struct Outcome {
    row: String,
    seed: u64,
    steps: u64,
    seconds_per_step: f64,
    relative_step: f64,
    loss: f64,
    sampler: String,
    sampling_seconds: f64,
    count: usize,
    frechet_distance: f64,
    sure: f64,
    smallest_class: f64,
    precision: f64,
    recall: f64,
    coverage: f64,
}

pub(crate) fn run(args: &RecipeBenchArgs) -> Result<()> {
    let file = args.recipes.clone().unwrap_or_else(|| workspace_root().join("xtask/recipes.toml"));
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let recipes: Recipes = toml::from_str(&text).with_context(|| file.display().to_string())?;
    let judge = workspace_root().join(SEARCH_JUDGE);
    let bytes = std::fs::read(&judge)
        .with_context(|| format!("{}: make it by cargo xtask train-judge --for-search", judge.display()))?;
    let (judge, reference) = DigitJudge::from_bytes(&bytes, &Device::Cpu)?;
    let digits = shipped_digits()?;
    let out = args.out.clone().unwrap_or_else(|| workspace_root().join("target/recipe"));
    std::fs::create_dir_all(&out)?;
    let bench = Bench { args, recipes: &recipes, judge, reference, digits, out };
    let chosen = bench.chosen()?;
    println!(
        "| row | seed | steps | s/step | loss | sampler | s | Fréchet | sure | least class | precision | recall | coverage |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for row in chosen {
        for &seed in &args.seeds {
            bench.train(row, seed)?;
        }
    }
    Ok(())
}

pub(crate) fn shipped_digits() -> Result<ImageDataset> {
    let read = |name: &str| {
        let path = workspace_root().join("assets/mnist").join(name);
        std::fs::read(&path).with_context(|| path.display().to_string())
    };
    Ok(mnist::from_bytes(&read("train-10k-images-idx3-ubyte.gz")?, &read("train-10k-labels-idx1-ubyte.gz")?)?)
}

/// Images that were drawn, and what a judge says of them.
struct Judged {
    images: Tensor,
    sampling_seconds: f64,
    quality: SampleQuality,
    classes: ClassShares,
}

/// What draws images.
type Draw<'a> = &'a dyn Fn(&Generation) -> std::result::Result<Tensor, TrainError>;

fn by(trainer: &Trainer) -> impl Fn(&Generation) -> std::result::Result<Tensor, TrainError> {
    |generation| trainer.generate(generation, &mut |_, _| ControlFlow::Continue(()))
}

fn judged(
    draw: Draw<'_>,
    generation: &Generation,
    judge: &DigitJudge,
    reference: &Reference,
) -> Result<Judged> {
    let start = Instant::now();
    let images = draw(generation)?;
    // What an image file keeps of those that were not cut.
    let images = images.clamp(-1f32, 1f32)?;
    let sampling_seconds = start.elapsed().as_secs_f64();
    let verdict = judge.judge(&images)?;
    let quality = reference.quality(&verdict.features)?;
    Ok(Judged { images, sampling_seconds, quality, classes: ClassShares::of(&verdict.logits)? })
}

struct Bench<'a> {
    args: &'a RecipeBenchArgs,
    recipes: &'a Recipes,
    judge: DigitJudge,
    reference: Reference,
    digits: ImageDataset,
    out: PathBuf,
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

    fn config(&self, row: &Row, seed: u64, steps: u64) -> Result<TrainConfig> {
        let mut table = self.recipes.base.clone();
        table.extend(row.change.clone());
        table.insert("seed".to_owned(), i64::try_from(seed)?.into());
        table.insert("steps".to_owned(), i64::try_from(steps)?.into());
        let source = ConfigSource { path: PathBuf::from(&row.name), text: table.to_string() };
        Ok(TrainConfig::layered("tutorial", Some(&source))?)
    }

    fn trainer(&self, row: &Row, seed: u64, steps: u64) -> Result<Trainer> {
        Ok(Trainer::new(&self.config(row, seed, steps)?, &self.digits, &Device::Cpu)?)
    }

    /// Seconds of a step of `row` and of the first row, timed in turns.
    fn pace(&self, row: &Row) -> Result<(f64, f64)> {
        let mut contenders = [self.trainer(row, 0, 100)?, self.trainer(&self.recipes.row[0], 0, 100)?];
        let mut seconds = [const { Vec::new() }; 2];
        for round in 0..8 {
            for (contender, seconds) in contenders.iter_mut().zip(&mut seconds) {
                for step in 0..3 {
                    let start = Instant::now();
                    contender.step()?;
                    // The first steps of a turn find the caches full of the other's numbers.
                    if round > 0 && step > 0 {
                        seconds.push(start.elapsed().as_secs_f64());
                    }
                }
            }
        }
        let [own, base] = seconds.map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 4]
        });
        Ok((own, base))
    }

    fn train(&self, row: &Row, seed: u64) -> Result<()> {
        let (own, base) = self.pace(row)?;
        let steps = ((self.args.base_steps as f64 * base / own) as u64).max(1);
        let mut trainer = self.trainer(row, seed, steps)?;
        let mut losses = Vec::new();
        while !trainer.is_finished() {
            losses.push(trainer.step()?.loss);
        }
        let last = &losses[losses.len() - losses.len().div_ceil(10)..];
        let loss = last.iter().sum::<f64>() / last.len() as f64;
        trainer.checkpoint().write(&self.out.join(format!("{}-{seed}", row.name)))?;
        for named in &row.samplers {
            let generation = generation(named, self.args.num)?;
            let Judged { sampling_seconds, quality, classes, .. } =
                judged(&by(&trainer), &generation, &self.judge, &self.reference)?;
            self.report(&Outcome {
                row: row.name.clone(),
                seed,
                steps,
                seconds_per_step: own,
                relative_step: own / base,
                loss,
                sampler: named.clone(),
                sampling_seconds,
                count: quality.count,
                frechet_distance: quality.frechet_distance,
                sure: classes.sure,
                smallest_class: classes.smallest(),
                precision: quality.agreement.precision,
                recall: quality.agreement.recall,
                coverage: quality.agreement.coverage,
            })?;
        }
        Ok(())
    }

    fn report(&self, o: &Outcome) -> Result<()> {
        println!(
            "| {} | {} | {} | {:.4} | {:.4} | {} | {:.1} | {:.3} | {:.1} % | {:.1} % | {:.3} | {:.3} | {:.3} |",
            o.row,
            o.seed,
            o.steps,
            o.seconds_per_step,
            o.loss,
            o.sampler,
            o.sampling_seconds,
            o.frechet_distance,
            o.sure * 100.0,
            o.smallest_class * 100.0,
            o.precision,
            o.recall,
            o.coverage
        );
        let path = self.out.join("results.jsonl");
        let mut file = File::options().create(true).append(true).open(&path)?;
        writeln!(file, "{}", serde_json::to_string(o)?)?;
        Ok(())
    }
}

/// As `ddim:20` says, or `ddim:20@1.5` with guidance of scale 1.5.
fn generation(named: &str, num: u64) -> Result<Generation> {
    let (plain, scale) = named.split_once('@').unwrap_or((named, "1"));
    let Some((name, steps)) = plain.split_once(':') else { bail!("`{named}` is not of the form ddim:20") };
    let guidance = Guidance::new(scale.parse()?);
    let sampler = SamplerKind::from_name(name).with_context(|| format!("there is no sampler `{name}`"))?;
    let steps = steps.parse()?;
    ensure!(steps > 0, "`{named}` has no steps");
    Ok(Generation { seed: 1000, guidance: Some(guidance), ..Generation::new(sampler, steps, num) })
}
