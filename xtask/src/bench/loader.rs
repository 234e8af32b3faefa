//! `cargo xtask bench --loader`: compares the loading of training pictures with torchvision's
//! `DataLoader`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::contender::{Contender, Worker};
use super::{median, write_figures};
use crate::cargo::{built_program, workspace_root};
use crate::python::{TORCH, environment};

/// The number of pictures that both read in turns.
const PICTURES: usize = 10_000;
/// The number of pictures for the memory figures, which only this project reads.
const MANY_PICTURES: usize = 100_000;
const THREADS: u32 = 2;

/// Measures, prints the figures and writes them to the file `json`.
pub(super) fn run(rounds: u32, json: &Path) -> Result<()> {
    let python = environment("target/bench/venv", &[TORCH, "torchvision", "numpy", "setuptools"])?;
    let folder = |count: usize| workspace_root().join(format!("target/bench/{count}-pictures"));
    let pictures = folder(PICTURES);
    eprintln!("writing {PICTURES} pictures to {}", pictures.display());
    let mut diffusion = diffusion(&pictures)?;
    diffusion.run(&format!("make {PICTURES}"))?;
    let mut torchvision = torchvision(&python, &pictures)?;
    let mut trainer = Contender::Kernels { bf16: false }.start(THREADS, None)?;
    let [mut cold, mut open, mut cached, mut torch, mut step] = [const { Vec::new() }; 5];
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        cold.push(diffusion.run("prepare")?);
        open.push(diffusion.run("open")?);
        cached.push(diffusion.run("load 64")?);
        torch.push(torchvision.run("load 64")?);
        trainer.run("train 64")?;
        step.push(64e3 / trainer.run("train 64")?);
    }
    let torch_memory = torchvision.run("memory")? / 1024.0;
    let [cold, open, cached, torch, step] = [cold, open, cached, torch, step].map(median);

    let many = folder(MANY_PICTURES);
    eprintln!("writing {MANY_PICTURES} pictures to {}", many.display());
    self::diffusion(&many)?.run(&format!("make {MANY_PICTURES}"))?;
    // A separate process for each job, so that the peak is that of the job.
    let peak = |job: &str| -> Result<(f64, f64)> {
        let mut worker = self::diffusion(&many)?;
        let answer = worker.run(job)?;
        Ok((answer, worker.run("memory")? / 1024.0))
    };
    let (many_cold, preparing) = peak("prepare")?;
    let (many_cached, loading) = peak("load 64")?;
    let cache: u64 = fs::read_dir(many.join("cache"))?
        .filter_map(|file| Some(file.ok()?.metadata().ok()?.len()))
        .sum();
    let cache = cache as f64 / f64::from(1 << 20);

    println!(
        "{PICTURES} PNG files of 64×64 pixels, loaded as batches of 64 at 32×32, \
         {THREADS} threads, medians of {rounds} rounds\n"
    );
    println!("| pictures per second | |\n|---|---|");
    println!("| prepared for the first time: decoded, scaled, written to the cache | {cold:.0} |");
    println!("| loaded from the cache, with flips | {cached:.0} |");
    println!("| torchvision's DataLoader, 2 workers | {torch:.0} |");
    println!("| consumed by training steps of the mnist preset | {step:.0} |\n");
    println!(
        "opening a full cache takes {open:.0} ms; torchvision's peak memory with its workers is \
         {torch_memory:.0} MiB\n"
    );
    println!(
        "{MANY_PICTURES} pictures: {many_cold:.0} per second without cache, {many_cached:.0} with it;"
    );
    println!(
        "peak memory {preparing:.0} MiB while preparing, {loading:.0} MiB while loading from a \
         memory-mapped cache of {cache:.0} MiB\n"
    );
    let figures = json!({
        "pictures": PICTURES, "threads": THREADS, "rounds": rounds,
        "prepared_per_second": cold, "cached_per_second": cached, "open_milliseconds": open,
        "torchvision_per_second": torch, "torchvision_peak_mib": torch_memory, "trained_per_second": step,
        "many": { "pictures": MANY_PICTURES, "prepared_per_second": many_cold, "cached_per_second": many_cached,
                  "preparing_peak_mib": preparing, "loading_peak_mib": loading, "cache_mib": cache },
    });
    write_figures(json, &figures)
}

/// The worker of this project, for the pictures in `folder`.
fn diffusion(folder: &Path) -> Result<Worker> {
    let mut command = Command::new(built_program("diffusion-bench")?);
    command.arg("pictures").arg(folder).env("RAYON_NUM_THREADS", THREADS.to_string());
    Worker::start("diffusion", &mut command)
}

/// The worker of torchvision, for the pictures in `folder`.
fn torchvision(python: &PathBuf, folder: &Path) -> Result<Worker> {
    let mut command = Command::new(python);
    // Isolated mode (-I), because torchvision would import pytorch.py from the script's folder.
    command
        .arg("-I")
        .arg(workspace_root().join("bench/dataloader.py"))
        .arg(folder.join("pictures"));
    Worker::start("torchvision", &mut command)
}
