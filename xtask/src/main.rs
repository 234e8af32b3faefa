//! The repository's chores, in Rust and without a shell: `cargo xtask --help` lists them.

mod bench;
mod cargo;
mod check;
mod control;
mod digits;
mod docs;
mod download;
mod e2e;
mod golden;
mod judge;
mod python;
mod recipe;
mod structure;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that CI checks: format, structure, lints, documentation, tests, licences
    Check,
    Structure(structure::StructureArgs),
    /// Type-check the workspace with --features cuda, on a machine without a card if need be
    CheckCuda,
    /// Train, kill, resume and sample with the real program, and print what passed
    E2e,
    Bench(bench::BenchArgs),
    Docs(docs::DocsArgs),
    Golden(golden::GoldenArgs),
    Download(download::DownloadArgs),
    /// Make assets/mnist from a folder with the four files of MNIST
    Digits(digits::DigitsArgs),
    TrainJudge(judge::TrainJudgeArgs),
    ControlBench(control::ControlBenchArgs),
    RecipeBench(recipe::RecipeBenchArgs),
    RecipeCurve(recipe::RecipeCurveArgs),
    ShipModel(recipe::ShipModelArgs),
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let result = match Cli::parse().command {
        Command::Check => check::run().map(done),
        Command::Structure(args) => structure::run(&args).map(done),
        Command::CheckCuda => check::run_cuda().map(done),
        Command::E2e => e2e::run().map(done),
        Command::Bench(args) => bench::run(&args).map(done),
        Command::Docs(args) => docs::run(&args).map(done),
        Command::Golden(args) => golden::run(&args).map(done),
        Command::Download(args) => download::run(&args),
        Command::Digits(args) => digits::run(&args).map(done),
        Command::TrainJudge(args) => judge::run(&args).map(done),
        Command::ControlBench(args) => control::run(&args).map(done),
        Command::RecipeBench(args) => recipe::run(&args).map(done),
        Command::RecipeCurve(args) => recipe::curve(&args).map(done),
        Command::ShipModel(args) => recipe::ship(&args).map(done),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
