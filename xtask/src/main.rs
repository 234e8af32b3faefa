//! The repository's chores, in Rust and without a shell: `cargo xtask --help`.

mod check;
mod digits;
mod e2e;

use clap::{Parser, Subcommand};

/// Chores of the repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that CI checks: format, lints, documentation, tests, licences
    Check,
    /// Type-check the workspace with --features cuda, on a machine without a card if need be
    CheckCuda,
    /// Train, kill, resume and sample with the real program, and print what passed
    E2e,
    /// Make assets/mnist from a folder with the four files of MNIST
    Digits(digits::DigitsArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Check => check::run(),
        Command::CheckCuda => check::run_cuda(),
        Command::E2e => e2e::run(),
        Command::Digits(args) => digits::run(&args),
    }
}
