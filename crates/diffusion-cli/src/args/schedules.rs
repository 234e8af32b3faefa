//! Noise schedules by name, file or run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use diffusion_interop::{Scheduler, SchedulerClass};
use diffusion_model::RunLayout;
use diffusion_schedule::{BetaSchedule, NoiseSchedule, ScheduleConfig};

use crate::session::usage::bail_usage;

/// The built-in schedules: name, name in files (also accepted), β schedule.
const NAMED: [(&str, &str, BetaSchedule); 4] = [
    ("linear", "linear", BetaSchedule::Linear),
    ("cosine", "squaredcos_cap_v2", BetaSchedule::Cosine),
    ("sigmoid", "sigmoid", BetaSchedule::Sigmoid),
    ("scaled-linear", "scaled_linear", BetaSchedule::ScaledLinear),
];

/// The default of a comparison: the two schedules of the tutorial (Learn AI Series #84, Generative
/// Images – Diffusion Models, Part 1).
pub(crate) const TUTORIAL: &str = "linear,cosine";

/// The schedule of `argument` with a name for display. A built-in schedule gets `timesteps`
/// timesteps; that of a file or run keeps its own number.
pub(crate) fn named(argument: &str, timesteps: usize) -> anyhow::Result<(String, NoiseSchedule)> {
    if let Some((name, _, beta_schedule)) =
        NAMED.iter().find(|(name, other, _)| argument == *name || argument == *other)
    {
        let config = ScheduleConfig {
            num_train_timesteps: timesteps,
            beta_schedule: *beta_schedule,
            ..Default::default()
        };
        return Ok(((*name).to_owned(), config.build()?));
    }
    let path = Path::new(argument);
    let file = file_of(path);
    if !file.is_file() {
        let names: Vec<&str> = NAMED.iter().map(|(name, ..)| *name).collect();
        bail_usage!(
            "unknown schedule `{argument}`; expected {}, a TOML file with a table [schedule], the \
             folder of a run or a model, or a scheduler_config.json",
            names.join(", ")
        );
    }
    let schedule = if file.extension().is_some_and(|ending| ending == "json") {
        in_json(&file)?
    } else {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        in_toml(&text).with_context(|| file.display().to_string())?
    };
    Ok((display_name(path), schedule))
}

/// The file with the schedule in the folder `path` of a run or a model; `path` itself if there is
/// none.
fn file_of(path: &Path) -> PathBuf {
    let model_files =
        ["scheduler/scheduler_config.json", "scheduler_config.json"].map(|name| path.join(name));
    let mut files = std::iter::once(RunLayout::new(path).config()).chain(model_files);
    files.find(|file| file.is_file()).unwrap_or_else(|| path.to_owned())
}

/// The schedule in a configuration file, in its table `[schedule]`, or in a file with the fields of
/// that table only.
fn in_toml(text: &str) -> anyhow::Result<NoiseSchedule> {
    let mut table: toml::Table = text.parse()?;
    let flow =
        table.get("prediction_type").and_then(toml::Value::as_str) == Some("flow_prediction");
    if flow || table.contains_key("edm") {
        bail_usage!("{} has no schedule of β", if flow { "a flow" } else { "an EDM" });
    }
    let config: ScheduleConfig = match table.remove("schedule") {
        Some(schedule) => schedule.try_into()?,
        None if table.is_empty() => bail_usage!("it is empty; expected a table [schedule]"),
        None => {
            table.try_into().context("expected a table [schedule], or the fields of that table")?
        }
    };
    Ok(config.build()?)
}

/// The schedule in a scheduler file of Python's diffusers.
fn in_json(file: &Path) -> anyhow::Result<NoiseSchedule> {
    let (scheduler, _) = Scheduler::read(file)?;
    if matches!(scheduler.class(), SchedulerClass::EdmEuler | SchedulerClass::EdmDpmSolverMultistep)
    {
        bail_usage!("{}: {} has no schedule of β", file.display(), scheduler.class().name());
    }
    scheduler.schedule().with_context(|| file.display().to_string())
}

/// The last part of `path` that is not a generic file name.
fn display_name(path: &Path) -> String {
    const GENERIC: [&str; 3] = ["config", "scheduler_config", "scheduler"];
    let name = |part: &Path| {
        if part.is_dir() { part.file_name() } else { part.file_stem() }.map(OsStr::to_owned)
    };
    let stems =
        path.ancestors().filter_map(|part| Some(name(part)?.to_string_lossy().into_owned()));
    let own = path.display().to_string();
    stems.into_iter().find(|stem| !GENERIC.contains(&stem.as_str())).unwrap_or(own)
}

/// ᾱ as text: with six decimal places, or below 0.001 in scientific notation.
pub(crate) fn alpha_text(alpha_cumprod: f64) -> String {
    if alpha_cumprod >= 1e-3 || alpha_cumprod == 0.0 {
        format!("{alpha_cumprod:.6}")
    } else {
        format!("{alpha_cumprod:.2e}")
    }
}

/// Decibels as text, with two decimal places; `none` if infinite.
pub(crate) fn db_text(snr_db: f64) -> String {
    if snr_db.is_finite() { format!("{snr_db:.2}") } else { "none".to_owned() }
}

/// The timesteps of the tutorial's table, scaled from 1000 to `timesteps`, and the last timestep.
pub(crate) fn tutorial_timesteps(timesteps: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> =
        [0, 100, 250, 500, 750, 900].map(|t| t * timesteps / 1000).to_vec();
    chosen.push(timesteps.saturating_sub(1));
    chosen.dedup();
    chosen
}
