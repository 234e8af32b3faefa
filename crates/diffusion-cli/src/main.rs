//! The program `diffusion`: it trains diffusion models, samples from them, edits pictures with them
//! and evaluates them.
//!
//! It parses arguments, calls the library crates, shows progress and prints results. It contains no
//! mathematics.
//!
//! ```sh
//! diffusion train                                       # 10,000 digits, five minutes
//! diffusion sample --num 64 --grid digits.png           # with the newest run
//! diffusion edit vary --help                            # every command explains its flags
//! diffusion data inspect photos --size 32               # your own pictures
//! diffusion train --data photos --size 32 --flip
//! diffusion evaluate samples --run runs/mnist-1
//! diffusion export --run runs/model --out model         # for Python's diffusers
//! diffusion completions bash > ~/.local/share/bash-completion/completions/diffusion
//! diffusion man | man -l -
//! ```
//!
//! Exit codes: 0 success, 1 failure, 2 wrong argument or configuration, 130 interrupted (143 by
//! SIGTERM, 129 by SIGHUP), 141 output pipe closed.

mod args;
mod commands;
mod session;

use crate::args::numbers::whole;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::session::{device, interrupt, logging, usage};

/// Training frees and requests the same large buffers at each step; the system's allocator returns
/// them to the kernel every time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train diffusion models, sample from them and edit pictures with them
///
/// Before the first training, `sample`, `edit` and most `evaluate` commands use a small model of
/// handwritten digits that comes with the program. `diffusion COMMAND --help` explains every flag
/// of a command; `-h` is its short form.
///
/// Exit codes: 0 success, 1 failure, 2 wrong argument or configuration, 130 interrupted (143 by
/// SIGTERM, 129 by SIGHUP), 141 output pipe closed.
#[derive(Parser)]
#[command(name = "diffusion", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

#[derive(Subcommand)]
enum Command {
    Train(commands::train::TrainArgs),
    TrainClassifier(commands::train_classifier::TrainClassifierArgs),
    TrainJudge(commands::train_judge::TrainJudgeArgs),
    Sample(commands::sample::SampleArgs),
    #[command(subcommand)]
    Edit(commands::edit::EditCommand),
    #[command(subcommand)]
    Evaluate(commands::evaluate::EvaluateCommand),
    #[command(subcommand)]
    Schedule(commands::schedule::ScheduleCommand),
    #[command(subcommand)]
    Model(commands::model::ModelCommand),
    Info(commands::info::InfoArgs),
    #[command(subcommand)]
    Data(commands::data::DataCommand),
    Import(commands::import::ImportArgs),
    Export(commands::export::ExportArgs),
    Completions(commands::manual::CompletionsArgs),
    Man(commands::manual::ManArgs),
}

/// The heading of [`GlobalArgs`] in a help text. Without it they would be mixed with the flags of a
/// command.
const GLOBAL_HEADING: &str = "Global options";

/// Flags of all commands.
#[derive(clap::Args)]
struct GlobalArgs {
    /// Device to compute on: auto, cpu, cuda:N or metal
    ///
    /// N is the number of the CUDA device, from 0; cuda is cuda:0. auto uses a CUDA or Metal device
    /// if this build supports one and the machine has it, otherwise the CPU.
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, default_value = "auto", value_name = "DEVICE")]
    device: device::DeviceChoice,
    /// Number of CPU threads, 1 to 1024 [default: RAYON_NUM_THREADS, otherwise all cores]
    ///
    /// It changes the speed, but neither the images nor the weights after a given number of steps.
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, value_name = "N", value_parser = whole(1..=1024))]
    threads: Option<u64>,
    /// Log more: -v for debug messages, -vv for trace messages
    #[arg(short, long, global = true, help_heading = GLOBAL_HEADING, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Log only warnings and errors, and show no progress
    #[arg(short, long, global = true, help_heading = GLOBAL_HEADING)]
    quiet: bool,
    /// Format of the log on standard error
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, default_value = "text", value_name = "FORMAT")]
    log_format: logging::LogFormat,
}

/// The exit code that shells report for a program that wrote to a closed pipe (128 + SIGPIPE).
const CLOSED_PIPE: i32 = 141;

/// Exits silently when standard output is closed, as in `diffusion … | head`, and with an error if
/// it cannot be written for another reason, such as a full disk. Printing would panic otherwise.
fn end_when_output_fails() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if let Some(problem) = message.strip_prefix("failed printing to stdout: ") {
            if is_closed_pipe(problem) {
                std::process::exit(CLOSED_PIPE);
            }
            logging::report(&anyhow::anyhow!("standard output cannot be written: {problem}"));
            std::process::exit(1);
        }
        report(panic);
    }));
}

/// Whether this is the text of the error of a closed pipe, on any system.
fn is_closed_pipe(problem: &str) -> bool {
    let codes: &[i32] = if cfg!(windows) { &[109, 232] } else { &[32] };
    let text = |code: &i32| std::io::Error::from_raw_os_error(*code).to_string();
    codes.iter().any(|code| problem == text(code))
}

/// Reads `--steps -1` as a wrong value of the flag, in place of an unknown flag `-1`.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    command.allow_negative_numbers(true).mut_subcommands(with_negative_numbers)
}

fn main() -> ExitCode {
    end_when_output_fails();
    let matches = with_negative_numbers(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    logging::init(cli.global.verbose, cli.global.quiet, cli.global.log_format);
    match run(cli) {
        Ok(code) => code,
        Err(error)
            if matches!(error.downcast_ref(), Some(diffusion_data::DataError::Cancelled)) =>
        {
            tracing::warn!("{error}");
            ExitCode::from(interrupt::exit_code())
        }
        Err(error) => {
            logging::report(&error);
            ExitCode::from(if usage::is_usage(&error) { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Some(threads) = cli.global.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads as usize).build_global()?;
    }
    let device = cli.global.device.open()?;
    match cli.command {
        Command::Train(args) => commands::train::run(&args, &device, cli.global.quiet),
        Command::TrainClassifier(args) => {
            commands::train_classifier::run(&args, &device, cli.global.quiet)
        }
        Command::TrainJudge(args) => commands::train_judge::run(&args, &device, cli.global.quiet),
        Command::Sample(args) => commands::sample::run(&args, &device, cli.global.quiet),
        Command::Edit(command) => commands::edit::run(&command, &device, cli.global.quiet),
        Command::Evaluate(command) => commands::evaluate::run(&command, &device, cli.global.quiet),
        Command::Schedule(command) => commands::schedule::run(&command, cli.global.quiet),
        Command::Model(command) => commands::model::run(&command),
        Command::Info(args) => commands::info::run(&args, &device),
        Command::Data(command) => commands::data::run(&command, cli.global.quiet),
        Command::Import(args) => commands::import::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Completions(args) => Ok(commands::manual::completions(&args, Cli::command())),
        Command::Man(args) => commands::manual::man(&args, Cli::command()),
    }
}
