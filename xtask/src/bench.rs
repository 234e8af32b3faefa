//! `cargo xtask bench`: compares this project's speed with PyTorch and with candle's own
//! operations, on one machine in one run.

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
/// All contenders compute the `mnist` preset's network in f32 on the CPU. They take turns, job by
/// job, for several rounds, so that other load on the machine affects all of them alike. A turn
/// does the job once to fill the caches, and then several times in a row, as training and sampling
/// do. The table compares medians. The first call installs PyTorch from PyPI into a virtual
/// environment in target/ (5 GB on Linux). `cargo bench -p diffusion-bench` measures single
/// kernels.
#[derive(Debug, Args)]
#[command(after_help = "\
Environment:
  PYTHON  the interpreter that creates the virtual environment; default: python3

Examples:
  cargo xtask bench
  cargo xtask bench --threads 2 --rounds 15
  cargo xtask bench --profile
  cargo xtask bench --loader
  cargo xtask bench --earlier ../before/target/debug/diffusion-bench")]
pub(crate) struct BenchArgs {
    /// Number of rounds in which the contenders take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Numbers of threads to measure with
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Vec<u32>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE", default_value = "target/bench/bench.json")]
    json: PathBuf,
    /// Instead, profile a training step and two forward passes; does not need PyTorch
    #[arg(long)]
    profile: bool,
    /// Instead, compare the loading of pictures with torchvision's DataLoader; writes the figures
    /// to loader.json in the folder of --json
    #[arg(long, conflicts_with = "profile")]
    loader: bool,
    /// Instead, compare with an earlier build of target/debug/diffusion-bench; writes the figures
    /// to earlier.json in the folder of --json
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["profile", "loader"])]
    earlier: Option<PathBuf>,
}

/// The jobs: the line that a worker reads, its description, and its repetitions per turn.
const JOBS: [(&str, &str, usize); 6] = [
    ("train 64", "training step, batch 64", 3),
    ("train 128", "training step, batch 128", 2),
    ("forward 1", "forward, 1 image", 20),
    ("forward 16", "forward, 16 images", 10),
    ("forward 64", "forward, 64 images", 5),
    ("sample 16 50", "sampling 16 digits in 50 steps", 1),
];

/// The number of rounds for candle's own operations. They take most of the time, and their times
/// vary little.
const PLAIN_ROUNDS: u32 = 3;

/// Runs the benchmark that `args` select.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    // Build the whole workspace, so that candle has the same features as in the tests and is not
    // built again.
    cargo(&["build", "--workspace", "--bin", "diffusion-bench"], &[])?;
    if args.profile {
        for &threads in &args.threads {
            println!("\n{threads} threads");
            let mut worker = Contender::Kernels.start(threads, None)?;
            for job in ["train 64", "forward 64", "forward 1"] {
                worker.run(&format!("profile 16 {job}"))?;
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
    let max_threads = args.threads.iter().copied().max().unwrap_or(1);
    for contender in Contender::all() {
        report.memory.push(measure_memory(contender, max_threads, &python)?);
    }
    println!("{report}");
    let path = workspace_root().join(&args.json);
    report.write_json(&path)?;
    println!("all figures: {}", path.display());
    Ok(())
}

/// The times of every contender, and the GFLOP/s of the fastest matrix product on this machine.
fn measure_times(rounds: u32, threads: u32, python: &PathBuf) -> Result<(Vec<Times>, f64)> {
    let mut workers = Vec::new();
    for contender in Contender::all() {
        eprintln!("{threads} threads: warming up {contender}");
        let mut worker = contender.start(threads, Some(python))?;
        // In the second run, the memory is allocated and PyTorch has finished compiling.
        for (job, _, _) in JOBS {
            for _ in 0..if contender == Contender::Plain { 1 } else { 2 } {
                worker.run(job)?;
            }
        }
        workers.push((contender, worker));
    }
    let mut times: Vec<Times> = JOBS
        .iter()
        .flat_map(|(_, work, _)| workers.iter().map(move |(contender, _)| (*work, *contender)))
        .map(|(work, contender)| Times { threads, work, contender, milliseconds: Vec::new() })
        .collect();
    let mut sgemm = Vec::new();
    for round in 0..rounds {
        eprintln!("{threads} threads: round {} of {rounds}", round + 1);
        let mut times = times.iter_mut();
        for (job, _, repeats) in JOBS {
            for ((contender, worker), times) in workers.iter_mut().zip(&mut times) {
                if *contender != Contender::Plain {
                    worker.run(job)?;
                    let turn = (0..repeats).map(|_| worker.run(job)).collect::<Result<Vec<_>>>()?;
                    times.milliseconds.push(median(turn));
                } else if round < PLAIN_ROUNDS {
                    times.milliseconds.push(worker.run(job)?);
                }
            }
        }
        sgemm.push(best_sgemm(&mut workers)?);
    }
    Ok((times, median(sgemm)))
}

/// The median of `numbers`; the upper one if their count is even.
///
/// # Panics
///
/// If `numbers` is empty.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// The GFLOP/s of the faster matrix product: candle's or PyTorch's.
fn best_sgemm(workers: &mut [(Contender, Worker)]) -> Result<f64> {
    workers
        .iter_mut()
        .filter(|(contender, _)| [Contender::Kernels, Contender::ALL_EAGER[0]].contains(contender))
        .try_fold(0.0, |best: f64, (_, worker)| Ok(best.max(worker.run("sgemm")?)))
}

/// Peaks of the resident set, each measured in a separate process that does nothing else.
fn measure_memory(contender: Contender, threads: u32, python: &PathBuf) -> Result<Memory> {
    let peak = |jobs: &[&str]| -> Result<f64> {
        let mut worker = contender.start(threads, Some(python))?;
        jobs.iter().try_for_each(|job| worker.run(job).map(drop))?;
        Ok(worker.run("memory")? / 1024.0)
    };
    Ok(Memory {
        contender,
        at_rest: peak(&[])?,
        training: peak(&["train 64"; 3])?,
        sampling: peak(&["sample 16 50"])?,
    })
}
