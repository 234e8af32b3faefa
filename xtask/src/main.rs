//! The repository's maintenance commands, written in Rust instead of shell scripts.
//! `cargo xtask --help` lists them.

mod anchor;
mod bench;
mod cargo;
mod check;
mod control;
mod digits;
mod docs;
mod download;
mod e2e;
mod golden;
mod gpu_bundle;
mod judge;
mod package;
mod prose;
mod python;
mod recipe;
mod structure;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Run the maintenance commands of the repository
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check everything that CI checks (format, structure, prose, lints, documentation, tests), and
    /// package every crate
    Check,
    Structure(structure::StructureArgs),
    Prose(prose::ProseArgs),
    Package(package::PackageArgs),
    /// Type-check the program with --features cuda; needs the CUDA compiler but no GPU
    CheckCuda,
    GpuBundle(gpu_bundle::GpuBundleArgs),
    /// Train, kill, resume and sample with the real program, and print which steps passed
    E2e,
    Bench(bench::BenchArgs),
    Anchor(anchor::AnchorArgs),
    Docs(docs::DocsArgs),
    Golden(golden::GoldenArgs),
    Download(download::DownloadArgs),
    /// Write assets/mnist from a folder with MNIST's four files
    Digits(digits::DigitsArgs),
    TrainJudge(judge::TrainJudgeArgs),
    ControlBench(control::ControlBenchArgs),
    RecipeBench(recipe::RecipeBenchArgs),
    RecipeCurve(recipe::RecipeCurveArgs),
    RecipeLaw(recipe::RecipeLawArgs),
    ShipModel(recipe::ShipModelArgs),
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let result = match Cli::parse().command {
        Command::Check => check::run().map(done),
        Command::Structure(args) => structure::run(&args).map(done),
        Command::Prose(args) => prose::run(&args).map(done),
        Command::Package(args) => package::run(&args).map(done),
        Command::CheckCuda => check::run_cuda().map(done),
        Command::GpuBundle(args) => gpu_bundle::run(&args).map(done),
        Command::E2e => e2e::run().map(done),
        Command::Bench(args) => bench::run(&args).map(done),
        Command::Anchor(args) => anchor::run(&args).map(done),
        Command::Docs(args) => docs::run(&args).map(done),
        Command::Golden(args) => golden::run(&args).map(done),
        Command::Download(args) => download::run(&args),
        Command::Digits(args) => digits::run(&args).map(done),
        Command::TrainJudge(args) => judge::run(&args).map(done),
        Command::ControlBench(args) => control::run(&args).map(done),
        Command::RecipeBench(args) => recipe::run(&args).map(done),
        Command::RecipeCurve(args) => recipe::curve(&args).map(done),
        Command::RecipeLaw(args) => recipe::law(&args).map(done),
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
