//! `cargo xtask bench --earlier`: compares this project with an earlier build.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::contender::Worker;
use super::{MNIST_JOBS, median, write_figures};
use crate::cargo::built_program;

/// Runs each job with both programs in turns, and prints and writes medians of `rounds` rounds and
/// the peak memory of a training.
pub(super) fn run(earlier: &Path, rounds: u32, threads: &[u32], json: &Path) -> Result<()> {
    ensure!(earlier.is_file(), "--earlier {}: no such program", earlier.display());
    let programs = [built_program("diffusion-bench")?, earlier.to_owned()];
    let mut rows = Vec::new();
    println!("{:>7}  {:<32} {:>10} {:>10} {:>7}", "threads", "work, ms", "now", "earlier", "ratio");
    for &threads in threads {
        let mut workers =
            programs.iter().map(|program| start(program, threads)).collect::<Result<Vec<_>>>()?;
        for (job, work, repeats) in MNIST_JOBS {
            let mut times = [Vec::new(), Vec::new()];
            // Round 0 fills the caches and is not counted.
            for round in 0..=rounds {
                for (worker, times) in workers.iter_mut().zip(&mut times) {
                    let turn = (0..repeats).map(|_| worker.run(job)).collect::<Result<Vec<_>>>()?;
                    if round > 0 {
                        times.push(median(turn));
                    }
                }
            }
            rows.push(row(threads, work, times.map(median)));
        }
        let mut memory = Vec::new();
        for program in &programs {
            let mut worker = start(program, threads)?;
            (0..3).try_for_each(|_| worker.run("train 64").map(drop))?;
            memory.push(worker.run("memory")? / 1024.0);
        }
        rows.push(row(threads, "peak memory of training, MiB", [memory[0], memory[1]]));
    }
    write_figures(json, &Value::from(rows))
}

fn start(program: &PathBuf, threads: u32) -> Result<Worker> {
    let mut command = Command::new(program);
    command.env_remove("DIFFUSION_KERNELS").env("RAYON_NUM_THREADS", threads.to_string());
    Worker::start(&program.display().to_string(), &mut command)
}

fn row(threads: u32, work: &str, [now, earlier]: [f64; 2]) -> Value {
    let ratio = now / earlier;
    println!("{threads:>7}  {work:<32} {now:>10.2} {earlier:>10.2} {ratio:>7.3}");
    json!({ "threads": threads, "work": work, "now": now, "earlier": earlier, "ratio": ratio })
}
