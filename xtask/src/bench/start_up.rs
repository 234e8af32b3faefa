//! `cargo xtask bench --start-up`: whole runs of short commands.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::contender::python;
use super::{median, write_figures};
use crate::cargo::{built_program, cargo};

/// The commands of this project.
const COMMANDS: [&str; 4] =
    ["--help", "info", "sample --num 1 --steps 1 --out image", "train --steps 1 --run-dir run"];
/// What a Python program imports before its first step.
const IMPORTS: [&str; 2] = ["import torch", "from diffusers import UNet2DModel"];

/// Measures, prints the medians and writes them to the file `json`.
pub(super) fn run(rounds: u32, json: &Path) -> Result<()> {
    cargo(&["build", "--workspace", "--bin", "diffusion"], &[])?;
    let program = built_program("diffusion")?;
    let python = python()?;
    let ours = COMMANDS.map(|line| (program.as_path(), line.split(' ').collect(), line));
    let theirs = IMPORTS.map(|line| (python.as_path(), vec!["-c", line], line));
    let commands: Vec<(&Path, Vec<&str>, &str)> = ours.into_iter().chain(theirs).collect();
    let mut times = vec![Vec::new(); commands.len()];
    // Round 0 reads the files into memory and is not counted.
    for round in 0..=rounds {
        for ((program, arguments, _), times) in commands.iter().zip(&mut times) {
            let time = whole_process(program, arguments)?;
            if round > 0 {
                times.push(time);
            }
        }
    }
    println!("\nwhole processes, median of {rounds} rounds\n\n| command | ms |\n|---|---|");
    let mut rows = Vec::new();
    for ((program, _, line), times) in commands.iter().zip(times) {
        let name = program.file_stem().unwrap_or_default().to_string_lossy();
        let ms = median(times);
        println!("| `{name} {line}` | {ms:.0} |");
        rows.push(json!({ "program": name, "arguments": line, "median_ms": ms }));
    }
    println!();
    write_figures(json, &Value::from(rows))
}

/// The milliseconds of a process in an empty folder.
fn whole_process(program: &Path, arguments: &[&str]) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&folder).env("CI", "true");
    let begin = Instant::now();
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let time = begin.elapsed();
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {problem}");
    Ok(time.as_secs_f64() * 1e3)
}
