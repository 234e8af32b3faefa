//! The program `diffusion`: arguments in, progress and pictures out. The mathematics lives in the library crates.
//!
//! Exit codes: 0 done, 1 failure, 2 usage (a wrong argument or configuration), 130 interrupted, 141
//! nobody reads what is printed.

mod args;
mod commands;
mod session;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::session::{device, interrupt, logging, usage};

/// Training gives back and asks for the same large buffers at each step; the system's allocator hands them to the kernel
/// and back every time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train diffusion models and sample from them.
#[derive(Parser)]
#[command(version, propagate_version = true)]
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
}

/// What every command understands.
#[derive(clap::Args)]
struct GlobalArgs {
    /// Where to compute: auto, cpu, cuda:N or metal
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    device: device::DeviceChoice,
    /// Threads to compute with [default: RAYON_NUM_THREADS, else all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: Option<u64>,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Say only warnings and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// The form of the log on standard error
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    log_format: logging::LogFormat,
}

/// The exit code of a program whose reader has gone, as shells know it.
const CLOSED_PIPE: i32 = 141;

/// `diffusion … | head` is no failure: whoever reads has enough, and nothing is left to say. Printing to a closed pipe panics.
fn end_quietly_on_closed_pipes() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic
            .payload_as_str()
            .is_some_and(|message| message.starts_with("failed printing to stdout"))
        {
            std::process::exit(CLOSED_PIPE);
        }
        report(panic);
    }));
}

fn main() -> ExitCode {
    end_quietly_on_closed_pipes();
    let cli = Cli::parse();
    logging::init(cli.global.verbose, cli.global.quiet, cli.global.log_format);
    match run(cli) {
        Ok(code) => code,
        Err(error)
            if matches!(error.downcast_ref(), Some(diffusion_data::DataError::Cancelled)) =>
        {
            tracing::warn!("{error}");
            ExitCode::from(interrupt::EXIT_CODE)
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
        Command::Sample(args) => commands::sample::run(&args, &device, cli.global.quiet),
        Command::Edit(command) => commands::edit::run(&command, &device, cli.global.quiet),
        Command::Evaluate(command) => commands::evaluate::run(&command, &device, cli.global.quiet),
        Command::Schedule(command) => commands::schedule::run(&command, cli.global.quiet),
        Command::Model(command) => commands::model::run(&command),
        Command::Info(args) => commands::info::run(&args, &device),
        Command::Data(command) => commands::data::run(&command, cli.global.quiet),
        Command::Import(args) => commands::import::run(&args),
        Command::Export(args) => commands::export::run(&args),
    }
}
