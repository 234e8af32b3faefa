//! `diffusion schedule`: what noise schedules do.

mod compare;
mod show_noise;

use std::process::ExitCode;

use diffusion_schedule::ScheduleComparison;

use crate::args::schedules;
use crate::session::usage::bail_usage;

/// See what noise schedules do
#[derive(clap::Subcommand)]
pub(crate) enum ScheduleCommand {
    Compare(compare::CompareArgs),
    ShowNoise(show_noise::ShowNoiseArgs),
}

/// Which schedules, and where.
#[derive(clap::Args)]
struct SchedulesArgs {
    /// linear, cosine, sigmoid, scaled-linear, a TOML file with a table of the name `schedule`, the folder of a run
    /// or of a model of Python's diffusers, or a scheduler_config.json
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = schedules::LESSON)]
    schedules: Vec<String>,
    /// The number of steps T of those that have a name; files say their own
    #[arg(long, value_name = "T", default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    timesteps: u64,
    /// The timesteps t to look at [default: the lesson's, 0 100 250 500 750 900 999 of 1000, at the same shares of T]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    at: Vec<usize>,
}

impl SchedulesArgs {
    fn comparison(&self) -> anyhow::Result<ScheduleComparison> {
        let named =
            self.schedules.iter().map(|name| schedules::named(name, self.timesteps as usize));
        let mut named = named.collect::<anyhow::Result<Vec<_>>>()?;
        // Two of one name are told apart by their place.
        for i in 1..named.len() {
            if named[..i].iter().any(|(name, _)| *name == named[i].0) {
                named[i].0 = format!("{} ({})", named[i].0, i + 1);
            }
        }
        Ok(ScheduleComparison::new(named))
    }

    /// The timesteps to look at, each of which some schedule has.
    fn timesteps(&self, comparison: &ScheduleComparison) -> anyhow::Result<Vec<usize>> {
        let longest = comparison.longest();
        if self.at.is_empty() {
            return Ok(schedules::lesson_timesteps(longest));
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
