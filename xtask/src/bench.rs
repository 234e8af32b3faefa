//! `cargo xtask bench`: this project against PyTorch and against candle's own operations, on one machine in one run.

mod contender;
mod earlier;
mod loader;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::cargo::{cargo, workspace_root};
use contender::{Contender, Worker, python};
use report::{Memory, Report, Times};

/// Measure training, forward passes and sampling against PyTorch and plain candle.
///
/// All contenders compute the `mnist` preset's network in f32 on the CPU. They take turns, job by job, for several
/// rounds, so that whatever else the machine does meets all of them alike. A turn does the job once for the caches and
/// then several times in a row, as training and sampling do; medians are compared. PyTorch is installed
/// from PyPI into a virtual environment in target/ at the first call (5 GB on Linux). For the kernels one by one there is
/// `cargo bench -p diffusion-bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Environment:
  PYTHON  the interpreter that makes the virtual environment; python3 unless set

Examples:
  cargo xtask bench
  cargo xtask bench --threads 2 --rounds 15
  cargo xtask bench --profile
  cargo xtask bench --loader
  cargo xtask bench --earlier ../before/target/debug/diffusion-bench")]
pub(crate) struct BenchArgs {
    /// Rounds in which the contenders take turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Numbers of threads to measure with.
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Vec<u32>,
    /// Where the figures go.
    #[arg(long, value_name = "FILE", default_value = "target/bench/bench.json")]
    json: PathBuf,
    /// Show where the time of a training step goes instead, with no PyTorch.
    #[arg(long)]
    profile: bool,
    /// Measure how pictures are read instead, against torchvision's DataLoader; figures go to loader.json beside --json.
    #[arg(long, conflicts_with = "profile")]
    loader: bool,
    /// Measure against an earlier build of target/debug/diffusion-bench instead; figures go to earlier.json beside --json.
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["profile", "loader"])]
    earlier: Option<PathBuf>,
}

/// What is measured: the line that a worker reads, what it means, and how often a turn does it.
const JOBS: [(&str, &str, usize); 6] = [
    ("train 64", "training step, batch 64", 3),
    ("train 128", "training step, batch 128", 2),
    ("forward 1", "forward, 1 image", 20),
    ("forward 16", "forward, 16 images", 10),
    ("forward 64", "forward, 64 images", 5),
    ("sample 16 50", "sampling 16 digits in 50 steps", 1),
];

/// The rounds that candle's own operations take part in: they need most of the time, and it varies little.
const PLAIN_ROUNDS: u32 = 3;

/// Runs the chore.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    // Of the whole workspace, so that candle is built with the features that the tests have built it with.
    cargo(&["build", "--workspace", "--bin", "diffusion-bench"], &[])?;
    if args.profile {
        for &threads in &args.threads {
            println!("\n{threads} threads");
            let mut worker = Contender::Kernels.start(threads, None)?;
            for job in ["train 64", "forward 64", "forward 1"] {
                worker.ask(&format!("profile 16 {job}"))?;
            }
        }
        return Ok(());
    }
    if args.loader {
        return loader::run(
            args.rounds,
            &workspace_root().join(&args.json).with_file_name("loader.json"),
        );
    }
    if let Some(program) = &args.earlier {
        let json = workspace_root().join(&args.json).with_file_name("earlier.json");
        return earlier::run(program, args.rounds, &args.threads, &json);
    }
    let python = python()?;
    let mut report = Report::new(args.rounds);
    for &threads in &args.threads {
        let (times, sgemm) = measure_times(args.rounds, threads, &python)?;
        report.times.extend(times);
        report.sgemm.push((threads, sgemm));
    }
    let most = args.threads.iter().copied().max().unwrap_or(1);
    for contender in Contender::all() {
        report.memory.push(measure_memory(contender, most, &python)?);
    }
    println!("{report}");
    let path = workspace_root().join(&args.json);
    report.write_json(&path)?;
    println!("all figures: {}", path.display());
    Ok(())
}

/// Times of every contender, and the GFLOP/s of the machine's better product of matrices.
fn measure_times(rounds: u32, threads: u32, python: &PathBuf) -> Result<(Vec<Times>, f64)> {
    let mut entrants = Vec::new();
    for contender in Contender::all() {
        eprintln!("{threads} threads: warming up {contender}");
        let mut worker = contender.start(threads, Some(python))?;
        // The second time, memory is there and PyTorch has compiled what it wants to compile.
        for (job, _, _) in JOBS {
            for _ in 0..if contender == Contender::Plain { 1 } else { 2 } {
                worker.ask(job)?;
            }
        }
        entrants.push((contender, worker));
    }
    let mut times: Vec<Times> = JOBS
        .iter()
        .flat_map(|(_, work, _)| entrants.iter().map(move |(contender, _)| (*work, *contender)))
        .map(|(work, contender)| Times { threads, work, contender, milliseconds: Vec::new() })
        .collect();
    let mut sgemm = Vec::new();
    for round in 0..rounds {
        eprintln!("{threads} threads: round {} of {rounds}", round + 1);
        let mut times = times.iter_mut();
        for (job, _, repeats) in JOBS {
            for ((contender, worker), times) in entrants.iter_mut().zip(&mut times) {
                if *contender != Contender::Plain {
                    worker.ask(job)?;
                    let turn = (0..repeats).map(|_| worker.ask(job)).collect::<Result<Vec<_>>>()?;
                    times.milliseconds.push(median(turn));
                } else if round < PLAIN_ROUNDS {
                    times.milliseconds.push(worker.ask(job)?);
                }
            }
        }
        sgemm.push(best_sgemm(&mut entrants)?);
    }
    Ok((times, median(sgemm)))
}

/// The middle of `numbers`, of which there is one at least.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// The better of candle's and PyTorch's product of matrices.
fn best_sgemm(entrants: &mut [(Contender, Worker)]) -> Result<f64> {
    entrants
        .iter_mut()
        .filter(|(contender, _)| [Contender::Kernels, Contender::ALL_EAGER[0]].contains(contender))
        .try_fold(0.0, |best: f64, (_, worker)| Ok(best.max(worker.ask("sgemm")?)))
}

/// The peak of a process of its own that does nothing else.
fn measure_memory(contender: Contender, threads: u32, python: &PathBuf) -> Result<Memory> {
    let peak = |jobs: &[&str]| -> Result<f64> {
        let mut worker = contender.start(threads, Some(python))?;
        jobs.iter().try_for_each(|job| worker.ask(job).map(drop))?;
        Ok(worker.ask("memory")? / 1024.0)
    };
    Ok(Memory {
        contender,
        at_rest: peak(&[])?,
        training: peak(&["train 64"; 3])?,
        sampling: peak(&["sample 16 50"])?,
    })
}
