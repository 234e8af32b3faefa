//! `cargo xtask bench --loader`: pictures on their way to training, against torchvision's `DataLoader`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::contender::{Contender, Worker};
use super::median;
use crate::cargo::{built_program, workspace_root};
use crate::python::{TORCH, environment};

/// Pictures that both read in turns.
const PICTURES: usize = 10_000;
/// Pictures for the figures of memory, read by this project alone.
const MANY: usize = 100_000;
const THREADS: u32 = 2;

/// Measures, prints and writes `json`.
pub(super) fn run(rounds: u32, json: &Path) -> Result<()> {
    let python = environment("target/bench/venv", &[TORCH, "torchvision", "numpy", "setuptools"])?;
    let folder = |count: usize| workspace_root().join(format!("target/bench/{count}-pictures"));
    let few = folder(PICTURES);
    eprintln!("making {PICTURES} pictures in {}", few.display());
    let mut ours = ours(&few)?;
    ours.ask(&format!("make {PICTURES}"))?;
    let mut theirs = torchvision(&python, &few)?;
    let mut trainer = Contender::Kernels.start(THREADS, None)?;
    let [mut cold, mut open, mut cached, mut torch, mut step] = [const { Vec::new() }; 5];
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        cold.push(ours.ask("prepare")?);
        open.push(ours.ask("open")?);
        cached.push(ours.ask("load 64")?);
        torch.push(theirs.ask("load 64")?);
        trainer.ask("train 64")?;
        step.push(64e3 / trainer.ask("train 64")?);
    }
    let torch_memory = theirs.ask("memory")? / 1024.0;
    let [cold, open, cached, torch, step] = [cold, open, cached, torch, step].map(median);

    let many = folder(MANY);
    eprintln!("making {MANY} pictures in {}", many.display());
    self::ours(&many)?.ask(&format!("make {MANY}"))?;
    // Each in a process of its own, whose peak it is.
    let peak = |job: &str| -> Result<(f64, f64)> {
        let mut worker = self::ours(&many)?;
        let answer = worker.ask(job)?;
        Ok((answer, worker.ask("memory")? / 1024.0))
    };
    let (many_cold, preparing) = peak("prepare")?;
    let (many_cached, loading) = peak("load 64")?;
    let cache: u64 = fs::read_dir(many.join("cache"))?
        .filter_map(|file| Some(file.ok()?.metadata().ok()?.len()))
        .sum();
    let cache = cache as f64 / f64::from(1 << 20);

    println!(
        "{PICTURES} PNG files of 64×64 to batches of 64 at 32×32, {THREADS} threads, medians of {rounds} rounds\n"
    );
    println!("| pictures a second | |\n|---|---|");
    println!("| prepared for the first time: decoded, scaled, written to the cache | {cold:.0} |");
    println!("| loaded from the cache, with flips | {cached:.0} |");
    println!("| torchvision's DataLoader, 2 workers | {torch:.0} |");
    println!("| used by the training step of the mnist preset | {step:.0} |\n");
    println!(
        "ready {open:.0} ms after the start with a full cache; torchvision takes {torch_memory:.0} MiB with its workers\n"
    );
    println!("{MANY} pictures: {many_cold:.0} a second cold, {many_cached:.0} cached;");
    println!(
        "peak memory {preparing:.0} MiB preparing, {loading:.0} MiB loading, of a cache of {cache:.0} MiB mapped\n"
    );
    let figures = json!({
        "pictures": PICTURES, "threads": THREADS, "rounds": rounds,
        "prepared_per_second": cold, "cached_per_second": cached, "open_milliseconds": open,
        "torchvision_per_second": torch, "torchvision_peak_mib": torch_memory, "trained_per_second": step,
        "many": { "pictures": MANY, "prepared_per_second": many_cold, "cached_per_second": many_cached,
                  "preparing_peak_mib": preparing, "loading_peak_mib": loading, "cache_mib": cache },
    });
    fs::write(json, format!("{figures:#}\n"))?;
    println!("all figures: {}", json.display());
    Ok(())
}

fn ours(folder: &Path) -> Result<Worker> {
    let mut command = Command::new(built_program("diffusion-bench")?);
    command.arg("pictures").arg(folder).env("RAYON_NUM_THREADS", THREADS.to_string());
    Worker::start("diffusion", &mut command)
}

fn torchvision(python: &PathBuf, folder: &Path) -> Result<Worker> {
    let mut command = Command::new(python);
    // Isolated, since torchvision would take pytorch.py beside the script for a module.
    command
        .arg("-I")
        .arg(workspace_root().join("bench/dataloader.py"))
        .arg(folder.join("pictures"));
    Worker::start("torchvision", &mut command)
}
