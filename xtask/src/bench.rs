//! `cargo xtask bench`: compares this project's speed with PyTorch and with candle's own
//! operations, on one machine in one run.

mod contender;
mod curves;
mod earlier;
mod loader;
mod report;
mod start_up;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::cargo::{cargo, workspace_root};
use contender::{Contender, Worker, python};
use report::{Memory, Report, Times};

/// Measure training, forward passes and sampling against PyTorch and plain candle.
///
/// The contenders compute the same networks on the CPU, in f32 and in bf16: that of the `mnist`
/// preset (with AdamW and no classes), the preset itself (`recipe`, with Muon, classes and
/// guidance), and networks of bench/networks.json, which diffusers builds for PyTorch. They take
/// turns, job by job, for several rounds, so that other load on the machine affects all of them
/// alike. A turn does the job once to fill the caches, and then several times in a row, as training
/// and sampling do. The table compares medians. A variant of PyTorch that is a fifth slower than
/// another one in all jobs of a network takes part in two rounds only. The first call installs
/// PyTorch and diffusers from PyPI into a virtual environment in target/ (5 GB on Linux). `cargo
/// bench -p diffusion-bench` measures single kernels.
#[derive(Debug, Args)]
#[command(after_help = "\
Environment:
  PYTHON  the interpreter that creates the virtual environment; default: python3

Examples:
  cargo xtask bench
  cargo xtask bench --threads 2 --rounds 15
  cargo xtask bench --networks rgb64,cifar10
  cargo xtask bench --profile
  cargo xtask bench --curves --threads 2
  cargo xtask bench --start-up
  cargo xtask bench --loader
  cargo xtask bench --earlier ../before/target/debug/diffusion-bench")]
pub(crate) struct BenchArgs {
    /// Number of rounds in which the contenders take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Numbers of threads to measure with
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Vec<u32>,
    /// Networks to measure: mnist, recipe, digits-attn, rgb64 and cifar10 [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = NETWORKS.map(|network| network.name))]
    networks: Vec<String>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE", default_value = "target/bench/bench.json")]
    json: PathBuf,
    #[command(flatten)]
    instead: Instead,
}

/// What to measure instead of the networks.
#[derive(Debug, Args)]
#[group(multiple = false)]
#[allow(clippy::struct_excessive_bools)]
struct Instead {
    /// Instead, profile a training step and two forward passes; does not need PyTorch
    #[arg(long)]
    profile: bool,
    /// Instead, measure training steps for several image sizes, batches, widths and numbers of
    /// threads; writes charts and curves.json to the folder of --json, and continues a stopped
    /// measurement; delete curves.json to start again
    #[arg(long, conflicts_with = "networks")]
    curves: bool,
    /// Instead, measure whole runs of short commands; writes the figures to start-up.json in the
    /// folder of --json
    #[arg(long, conflicts_with = "networks")]
    start_up: bool,
    /// Instead, compare the loading of pictures with torchvision's DataLoader; writes the figures
    /// to loader.json in the folder of --json
    #[arg(long, conflicts_with = "networks")]
    loader: bool,
    /// Instead, compare with an earlier build of target/debug/diffusion-bench; writes the figures
    /// to earlier.json in the folder of --json
    #[arg(long, value_name = "PROGRAM", conflicts_with = "networks")]
    earlier: Option<PathBuf>,
}

/// A job: the line that a worker reads, its description, and its repetitions per turn.
type Job = (&'static str, &'static str, usize);

/// The jobs of a network.
struct Network {
    name: &'static str,
    /// The first job is the training step whose memory is measured.
    jobs: &'static [Job],
    /// Whether AVX2, candle's operations and `torch.compile` with NCHW take part, too.
    has_all_contenders: bool,
    /// Whether the contenders' processes stay in memory between turns. Otherwise a contender does
    /// all jobs of a round in a new process.
    is_small: bool,
}

/// The jobs of the `mnist` preset's network.
const MNIST_JOBS: [Job; 7] = [
    ("train 64", "training step, batch 64", 3),
    ("train 128", "training step, batch 128", 2),
    ("forward 1", "forward, 1 image", 20),
    ("forward 16", "forward, 16 images", 10),
    ("forward 64", "forward, 64 images", 5),
    ("sample ddim 16 50", "sampling 16 digits, DDIM, 50 steps", 1),
    ("sample ddpm 16 200", "sampling 16 digits, DDPM, 200 steps", 1),
];

const NETWORKS: [Network; 5] = [
    Network { name: "mnist", jobs: &MNIST_JOBS, has_all_contenders: true, is_small: true },
    Network {
        name: "recipe",
        jobs: &[
            ("train 32 recipe", "default recipe, training step, batch 32", 5),
            ("sample dpmpp-2m-sde 1 20 recipe", "default sampling with guidance, 1 digit", 2),
            ("sample dpmpp-2m-sde 16 20 recipe", "default sampling with guidance, 16 digits", 1),
            ("sample dpmpp-2m-sde 256 20 recipe", "default sampling with guidance, 256 digits", 1),
        ],
        has_all_contenders: false,
        is_small: true,
    },
    Network {
        name: "digits-attn",
        jobs: &[
            ("train 64 digits-attn", "digits-attn, training step, batch 64", 3),
            ("forward 64 digits-attn", "digits-attn, forward, 64 images", 5),
        ],
        has_all_contenders: false,
        is_small: true,
    },
    Network {
        name: "rgb64",
        jobs: &[
            ("train 8 rgb64", "64×64 RGB, 22 M parameters, training step, batch 8", 2),
            ("forward 8 rgb64", "64×64 RGB, 22 M parameters, forward, 8 images", 3),
        ],
        has_all_contenders: false,
        is_small: false,
    },
    Network {
        name: "cifar10",
        jobs: &[
            ("train 16 cifar10", "cifar10, 35.7 M parameters, training step, batch 16", 2),
            ("forward 16 cifar10", "cifar10, 35.7 M parameters, forward, 16 images", 3),
        ],
        has_all_contenders: false,
        is_small: false,
    },
];

/// The number of rounds for candle's own operations. They take most of the time, and their times
/// vary little.
const PLAIN_ROUNDS: u32 = 1;

/// Runs the benchmark that `args` select.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    // Build the whole workspace, so that candle has the same features as in the tests and is not
    // built again.
    cargo(&["build", "--workspace", "--bin", "diffusion-bench"], &[])?;
    let json = |name: &str| workspace_root().join(&args.json).with_file_name(name);
    if args.instead.profile {
        for &threads in &args.threads {
            println!("\n{threads} threads");
            let mut worker = Contender::Kernels { bf16: false }.start(threads, None)?;
            for job in ["train 64", "forward 64", "forward 1"] {
                worker.run(&format!("profile 16 {job}"))?;
            }
        }
        return Ok(());
    }
    if args.instead.loader {
        return loader::run(args.rounds, &json("loader.json"));
    }
    if let Some(program) = &args.instead.earlier {
        return earlier::run(program, args.rounds, &args.threads, &json("earlier.json"));
    }
    if args.instead.start_up {
        return start_up::run(args.rounds, &json("start-up.json"));
    }
    let python = python()?;
    if args.instead.curves {
        return curves::run(args.rounds, &args.threads, &python, &json("curves.json"));
    }
    let mut report = Report::new(args.rounds);
    let is_chosen =
        |name: &str| args.networks.is_empty() || args.networks.iter().any(|chosen| chosen == name);
    for &threads in &args.threads {
        report.sgemm.push((threads, measure_sgemm(args.rounds, threads, &python)?));
        for network in NETWORKS.iter().filter(|network| is_chosen(network.name)) {
            measure(network, args.rounds, threads, &python, &mut report)?;
        }
    }
    if is_chosen(NETWORKS[0].name) {
        for contender in Contender::all().into_iter().filter(|contender| !contender.is_compiled()) {
            for (state, job) in [("idle", None), ("sampling 16 digits", Some("sample ddim 16 50"))]
            {
                let mut worker = contender.start(args.threads[0], Some(&python))?;
                job.map_or(Ok(0.0), |job| worker.run(job))?;
                report.memory.push(Memory { contender, state, mib: peak_mib(&mut worker)? });
            }
        }
    }
    println!("{report}");
    write_figures(&workspace_root().join(&args.json), &report.figures())
}

/// The peak of a worker's resident set until now, in MiB.
fn peak_mib(worker: &mut Worker) -> Result<f64> {
    Ok(worker.run("memory")? / 1024.0)
}

/// Measures the times of all contenders for the jobs of a network, and their memory in training.
fn measure(
    network: &Network,
    rounds: u32,
    threads: u32,
    python: &PathBuf,
    report: &mut Report,
) -> Result<()> {
    let contenders: Vec<Contender> = Contender::all()
        .into_iter()
        .filter(|contender| network.has_all_contenders || contender.is_main())
        .collect();
    let mut times: Vec<Times> = network
        .jobs
        .iter()
        .flat_map(|(_, work, _)| contenders.iter().map(move |contender| (*work, *contender)))
        .map(|(work, contender)| Times { threads, work, contender, milliseconds: Vec::new() })
        .collect();
    let memory = &mut report.memory;
    let mut start = |contender: &Contender| -> Result<Worker> {
        eprintln!("{threads} threads, {}: warming up {contender}", network.name);
        let mut worker = contender.start(threads, Some(python))?;
        for (i, (job, state, _)) in network.jobs.iter().enumerate() {
            // In the second run, the memory is allocated and PyTorch has finished compiling.
            for _ in 0..if *contender == Contender::Plain { 1 } else { 2 } {
                worker.run(job)?;
            }
            let is_known = |known: &Memory| (known.contender, known.state) == (*contender, *state);
            if i == 0 && !memory.iter().any(is_known) {
                let mib = peak_mib(&mut worker)?;
                memory.push(Memory { contender: *contender, state, mib });
            }
        }
        Ok(worker)
    };
    let mut workers = Vec::new();
    if network.is_small {
        workers = contenders.iter().map(&mut start).collect::<Result<_>>()?;
    }
    for round in 0..rounds {
        eprintln!("{threads} threads, {}: round {} of {rounds}", network.name, round + 1);
        let takes_part: Vec<bool> = (0..contenders.len())
            .map(|i| round < TRIAL_ROUNDS || can_be_best(&contenders, i, &times))
            .collect();
        let chosen = || (0..contenders.len()).filter(|&i| takes_part[i]);
        if network.is_small {
            for (job, times) in network.jobs.iter().zip(times.chunks_mut(contenders.len())) {
                for i in chosen() {
                    turn(*job, &mut workers[i], &mut times[i], round)?;
                }
            }
            continue;
        }
        for i in chosen() {
            let mut worker = start(&contenders[i])?;
            for (job, times) in network.jobs.iter().zip(times.chunks_mut(contenders.len())) {
                turn(*job, &mut worker, &mut times[i], round)?;
            }
        }
    }
    report.times.extend(times);
    Ok(())
}

/// The number of rounds in which all contenders take part.
const TRIAL_ROUNDS: u32 = 2;
/// How much slower than the best one of its precision PyTorch may be in its better trial round, to
/// take part in the others.
const MARGIN: f64 = 1.2;

/// Whether contender `i` may be the best one of its kind in a job, after the trial rounds. `times`
/// has the times of all contenders for each job in turn. All but PyTorch's variants take part.
fn can_be_best(contenders: &[Contender], i: usize, times: &[Times]) -> bool {
    let Contender::Torch { bf16, .. } = contenders[i] else { return true };
    let is_alike =
        |other: &Contender| matches!(other, Contender::Torch { bf16: b, .. } if *b == bf16);
    times.chunks(contenders.len()).any(|times| {
        let trial = |i: usize| {
            times[i]
                .milliseconds
                .iter()
                .take(TRIAL_ROUNDS as usize)
                .copied()
                .fold(f64::MAX, f64::min)
        };
        let alike = (0..contenders.len()).filter(|&i| is_alike(&contenders[i]));
        trial(i) < MARGIN * alike.map(trial).fold(f64::MAX, f64::min)
    })
}

/// The turn of a contender with a job.
fn turn((job, _, repeats): Job, worker: &mut Worker, times: &mut Times, round: u32) -> Result<()> {
    if times.contender != Contender::Plain {
        worker.run(job)?;
        let turn = (0..repeats).map(|_| worker.run(job)).collect::<Result<Vec<_>>>()?;
        times.milliseconds.push(median(turn));
    } else if round < PLAIN_ROUNDS {
        times.milliseconds.push(worker.run(job)?);
    }
    Ok(())
}

/// The GFLOP/s of the fastest matrix product on this machine, in f32.
fn measure_sgemm(rounds: u32, threads: u32, python: &PathBuf) -> Result<f64> {
    let contenders = [Contender::Kernels { bf16: false }, Contender::EAGER];
    let mut workers = contenders.map(|contender| contender.start(threads, Some(python)));
    let mut best = || -> Result<f64> {
        workers.iter_mut().try_fold(0.0, |best: f64, worker| match worker {
            Ok(worker) => Ok(best.max(worker.run("sgemm")?)),
            Err(e) => bail!("{e:#}"),
        })
    };
    Ok(median((0..rounds).map(|_| best()).collect::<Result<Vec<_>>>()?))
}

/// Writes the figures of a benchmark to the file `path`, and prints where they are.
fn write_figures(path: &Path, figures: &Value) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::write(path, format!("{figures:#}\n")).with_context(|| path.display().to_string())?;
    println!("all figures: {}", path.display());
    Ok(())
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
