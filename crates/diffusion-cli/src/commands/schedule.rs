//! `diffusion schedule`.

mod compare;
mod show_noise;

use std::process::ExitCode;

use diffusion_schedule::ScheduleComparison;

use crate::args::numbers::whole;
use crate::args::schedules;
use crate::session::usage::bail_usage;

/// Compare and show noise schedules
#[derive(clap::Subcommand)]
pub(crate) enum ScheduleCommand {
    Compare(compare::CompareArgs),
    ShowNoise(show_noise::ShowNoiseArgs),
}

/// The schedules and timesteps to show.
#[derive(clap::Args)]
struct SchedulesArgs {
    /// Noise schedules, separated by commas: linear, cosine, sigmoid, scaled-linear or a file
    ///
    /// A file is a TOML file with a table `[schedule]`, the folder of a run or of a model of
    /// Python's diffusers, or a scheduler_config.json.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = schedules::TUTORIAL)]
    schedules: Vec<String>,
    /// Number of timesteps T of named schedules; 1 to 1,000,000
    ///
    /// Files have their own number of timesteps.
    #[arg(long, value_name = "T", default_value = "1000", value_parser = whole(1..=1_000_000))]
    timesteps: u64,
    /// Timesteps t to show, separated by commas; 0 to T − 1 [default: 0, 100, 250, 500, 750, 900
    /// and 999 for T = 1000]
    ///
    /// For another T, the default timesteps are at the same shares of T. T is that of the longest
    /// schedule.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    at: Vec<usize>,
}

impl SchedulesArgs {
    fn comparison(&self) -> anyhow::Result<ScheduleComparison> {
        let named =
            self.schedules.iter().map(|name| schedules::named(name, self.timesteps as usize));
        let mut named = named.collect::<anyhow::Result<Vec<_>>>()?;
        // Equal names get a number.
        for i in 1..named.len() {
            if named[..i].iter().any(|(name, _)| *name == named[i].0) {
                named[i].0 = format!("{} ({})", named[i].0, i + 1);
            }
        }
        Ok(ScheduleComparison::new(named))
    }

    /// The timesteps to show. Each exists in at least one schedule.
    fn timesteps(&self, comparison: &ScheduleComparison) -> anyhow::Result<Vec<usize>> {
        let longest = comparison.longest();
        if self.at.is_empty() {
            return Ok(schedules::tutorial_timesteps(longest));
        }
        match self.at.iter().find(|&&t| t >= longest) {
            Some(t) => bail_usage!("--at {t}: the last timestep is {}", longest - 1),
            None => Ok(self.at.clone()),
        }
    }
}

pub(crate) fn run(command: &ScheduleCommand, quiet: bool) -> anyhow::Result<ExitCode> {
    match command {
        ScheduleCommand::Compare(args) => compare::run(args),
        ScheduleCommand::ShowNoise(args) => show_noise::run(args, quiet),
    }
}
