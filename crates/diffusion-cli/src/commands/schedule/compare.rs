//! `diffusion schedule compare`.

use std::path::PathBuf;
use std::process::ExitCode;

use diffusion_report::schedule_chart;
use diffusion_schedule::ScheduleComparison;
use serde_json::{Value, json};

use super::SchedulesArgs;
use crate::args::schedules::{alpha_text, db_text};
use crate::session::usage::{CHARTS, check_picture};

/// Compare how noise schedules replace the signal by noise over the timesteps
///
/// The table shows alpha_cumprod and the signal-to-noise ratio (SNR) of each schedule.
/// alpha_cumprod is the share of the image's variance that is left at timestep t. The SNR is
/// alpha_cumprod/(1 − alpha_cumprod) in decibels; at 0 dB there is as much noise as signal. The
/// lines below the table name the timestep from which there is more noise than signal.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion schedule compare --plot schedules.png\n  \
                        diffusion schedule compare --schedules linear,cosine,sigmoid,runs/mnist-1 --timesteps 200 --at 0,50,199")]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    schedules: SchedulesArgs,
    /// Also write alpha_cumprod, SNR and beta as a chart, PNG or SVG by the file's ending
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print the table as CSV; an infinite SNR is an empty cell
    #[arg(long)]
    csv: bool,
}

pub(super) fn run(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let comparison = args.schedules.comparison()?;
    let timesteps = args.schedules.timesteps(&comparison)?;
    if let Some(path) = &args.plot {
        check_picture("--plot", path, &CHARTS)?;
        schedule_chart(&comparison).write(path)?;
    }
    if args.json {
        println!("{:#}", as_json(&comparison, &timesteps));
    } else if args.csv {
        print_csv(&comparison, &timesteps);
    } else {
        print_table(&comparison, &timesteps);
        if let Some(path) = &args.plot {
            println!("plot: {}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_table(comparison: &ScheduleComparison, timesteps: &[usize]) {
    const WIDTH: usize = 23;
    let line = |first: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: Vec<String> = cells.map(|cell| format!("  {cell:>WIDTH$}")).collect();
        println!("{first:>7}{}", cells.concat());
    };
    line("", &mut comparison.schedules().iter().map(|(name, _)| shortened(name, WIDTH)));
    let pair = |alpha: &str, snr: &str| format!("{alpha:>13} {snr:>9}");
    line("t", &mut comparison.schedules().iter().map(|_| pair("alpha_cumprod", "SNR dB")));
    for &t in timesteps {
        let cell = |sample: Option<diffusion_schedule::SchedulePoint>| match sample {
            Some(sample) => pair(&alpha_text(sample.alpha_cumprod), &db_text(sample.snr_db)),
            None => pair("-", "-"),
        };
        line(&t.to_string(), &mut comparison.at(t).map(cell));
    }
    println!();
    for ((name, schedule), crossing) in comparison.schedules().iter().zip(comparison.crossings()) {
        let steps = schedule.len();
        match crossing {
            Some(c) => println!(
                "{name}: more noise than signal from t = {} of {steps} on (0 dB at t = {:.2})",
                c.index, c.interpolated
            ),
            None => println!(
                "{name}: never more noise than signal; it ends at {} dB, t = {}",
                db_text(schedule.terminal_snr_db()),
                steps - 1
            ),
        }
    }
    if comparison.schedules().len() > 1 {
        println!("{}", longest_signal_text(comparison));
    }
}

/// A sentence about the schedules that keep the signal longest.
fn longest_signal_text(comparison: &ScheduleComparison) -> String {
    let best = comparison.longest_signal();
    let names: Vec<&str> = best.iter().map(|&i| comparison.schedules()[i].0.as_str()).collect();
    match names.as_slice() {
        [one] => format!("{one} keeps the signal longest"),
        several => format!("{} keep the signal equally long", several.join(", ")),
    }
}

fn shortened(name: &str, width: usize) -> String {
    name.chars().take(width).collect()
}

fn print_csv(comparison: &ScheduleComparison, timesteps: &[usize]) {
    let quoted = |text: String| {
        if text.contains([',', '"', '\n']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text
        }
    };
    let names = comparison.schedules().iter().flat_map(|(name, _)| {
        [quoted(format!("{name} alpha_cumprod")), quoted(format!("{name} snr_db"))]
    });
    println!("t,{}", names.collect::<Vec<_>>().join(","));
    for &t in timesteps {
        let cells = comparison.at(t).map(|sample| match sample {
            // CSV has no infinite numbers.
            Some(s) if s.snr_db.is_finite() => format!("{:e},{}", s.alpha_cumprod, s.snr_db),
            Some(s) => format!("{:e},", s.alpha_cumprod),
            None => ",".to_owned(),
        });
        println!("{t},{}", cells.collect::<Vec<_>>().join(","));
    }
}

fn as_json(comparison: &ScheduleComparison, timesteps: &[usize]) -> Value {
    let schedules = comparison.schedules().iter().zip(comparison.crossings()).enumerate();
    let schedules: Vec<Value> = schedules
        .map(|(i, ((name, schedule), crossing))| {
            let at = timesteps.iter().filter_map(|&t| {
                let sample = comparison.at(t).nth(i).flatten()?;
                Some(json!({ "t": t, "alpha_cumprod": sample.alpha_cumprod, "snr_db": sample.snr_db }))
            });
            json!({
                "name": name,
                "num_train_timesteps": schedule.len(),
                "at": at.collect::<Vec<_>>(),
                "first_below_0_db": crossing.map(|c| c.index),
                "interpolated_0_db": crossing.map(|c| c.interpolated),
                "terminal_snr_db": schedule.terminal_snr_db(),
            })
        })
        .collect();
    let longest: Vec<&str> = comparison
        .longest_signal()
        .into_iter()
        .map(|i| comparison.schedules()[i].0.as_str())
        .collect();
    json!({ "schedules": schedules, "longest_signal": longest })
}
