//! `cargo xtask bench --curves`: the time and memory of a training step by image size, batch, width
//! and number of threads.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use diffusion_report::{Chart, Curve, Panel, Scale};
use serde::{Deserialize, Serialize};

use super::contender::Contender;
use super::report::machine;
use super::{median, peak_mib};
use crate::python::TORCH;

/// A training step of the U-Net `unet2d` of bench/networks.json.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Point {
    /// Height and width of the pictures, in pixels.
    side: u32,
    batch: u32,
    /// The channels of the first level. The other two have twice as many.
    width: u32,
    threads: u32,
}

impl Point {
    fn job(self) -> String {
        let Self { side, batch, width, .. } = self;
        format!("train {batch} unet2d-{width}-{side}")
    }

    /// Whether all contenders fit into memory together.
    fn is_small(self) -> bool {
        const LARGEST: u32 = 32 * 32 * 64 * 64;
        self.side * self.side * self.batch * self.width <= LARGEST
    }
}

/// The names of the axes, in the order of [`Point`]'s fields.
const AXES: [&str; 4] = ["image size", "batch size", "width", "threads"];

/// The value of `point` on an axis.
fn value(point: Point, axis: usize) -> u32 {
    [point.side, point.batch, point.width, point.threads][axis]
}

/// The points along each axis; the other values are those of the point in the middle.
fn axes(threads: &[u32]) -> [Vec<Point>; 4] {
    let most = threads.iter().copied().max().unwrap_or(1);
    let middle = Point { side: 32, batch: 8, width: 64, threads: most };
    [
        [16, 32, 64, 128, 256].map(|side| Point { side, ..middle }).to_vec(),
        [1, 2, 4, 8, 16, 32, 64, 128, 256].map(|batch| Point { batch, ..middle }).to_vec(),
        [16, 32, 64, 128, 256].map(|width| Point { width, ..middle }).to_vec(),
        threads.iter().map(|&threads| Point { threads, ..middle }).collect(),
    ]
}

/// After this time, the contenders that take turns make no more steps for a point.
const LONGEST: Duration = Duration::from_mins(2);

/// What one contender needs for a point.
#[derive(Serialize, Deserialize)]
struct Measured {
    #[serde(flatten)]
    point: Point,
    /// The contender's name.
    contender: String,
    median_ms: f64,
    peak_mib: f64,
}

/// The file of the figures.
#[derive(Serialize, Deserialize)]
struct Figures {
    machine: String,
    pytorch: String,
    rounds: u32,
    points: Vec<Measured>,
}

/// The lines of the charts: a name, and the contenders of which the best counts.
const LINES: [(&str, bool, bool); 4] = [
    ("diffusion, f32", true, false),
    ("diffusion, bf16", true, true),
    ("PyTorch's best, f32", false, false),
    ("PyTorch's best, bf16", false, true),
];

/// Measures all points, and writes the figures to the file `json` and charts next to it. Points of
/// this machine that are in the file are not measured again.
pub(super) fn run(rounds: u32, threads: &[u32], python: &PathBuf, json: &Path) -> Result<()> {
    let all = Contender::all();
    // Without instructions for bf16, PyTorch emulates it and is slower than in f32.
    let has_bf16 = all.contains(&Contender::Kernels { bf16: true });
    let takes_part = |contender: &Contender| {
        contender.is_main() && (contender.is_ours(has_bf16) || contender.is_torch(has_bf16))
    };
    let contenders: Vec<_> = all.into_iter().filter(takes_part).collect();
    let axes = axes(threads);
    let new = Figures { machine: machine(), pytorch: TORCH.to_owned(), rounds, points: Vec::new() };
    let mut figures = match std::fs::read_to_string(json) {
        Ok(text) => serde_json::from_str(&text)
            .ok()
            .filter(|old: &Figures| {
                (&old.machine, &old.pytorch, old.rounds) == (&new.machine, &new.pytorch, new.rounds)
            })
            .unwrap_or(new),
        Err(_) => new,
    };
    let folder = json.parent().context("the file has no folder")?;
    for &point in axes.iter().flatten() {
        if figures.points.iter().any(|known| known.point == point) {
            eprintln!("{}: the figures are in {}", point.job(), json.display());
            continue;
        }
        eprintln!("{} with {} threads", point.job(), point.threads);
        figures.points.extend(measure(point, &contenders, rounds, python)?);
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        std::fs::write(json, serde_json::to_string_pretty(&figures)?)
            .with_context(|| json.display().to_string())?;
    }
    println!("\n{}; {TORCH}; medians of up to {rounds} steps\n", machine());
    for (axis, points) in axes.iter().enumerate() {
        print_table(axis, points, &figures.points);
        let path = folder.join(format!("step-by-{}.svg", AXES[axis].replace(' ', "-")));
        chart(axis, points, &figures.points).write(&path)?;
        println!("chart: {}\n", path.display());
    }
    println!("all figures: {}", json.display());
    Ok(())
}

/// The median time of a step after two others, and the peak memory of a process of its own, of each
/// contender. They take turns; at points that need much memory, one runs after the other. A
/// contender with very long steps makes fewer of them.
fn measure(
    point: Point,
    contenders: &[Contender],
    rounds: u32,
    python: &PathBuf,
) -> Result<Vec<Measured>> {
    let at_once = if point.is_small() { contenders.len() } else { 1 };
    let mut measured = Vec::new();
    for contenders in contenders.chunks(at_once) {
        let start = |contender: &Contender| contender.start(point.threads, Some(python));
        let mut workers = contenders.iter().map(start).collect::<Result<Vec<_>>>()?;
        let mut times = vec![Vec::new(); workers.len()];
        let begin = Instant::now();
        for round in 0..2 + rounds as usize {
            for (worker, times) in workers.iter_mut().zip(&mut times) {
                times.push(worker.run(&point.job())?);
            }
            if round >= 2 && begin.elapsed() > LONGEST {
                break;
            }
        }
        for ((contender, worker), times) in contenders.iter().zip(&mut workers).zip(times) {
            measured.push(Measured {
                point,
                contender: contender.to_string(),
                median_ms: median(times[2..].to_vec()),
                peak_mib: peak_mib(worker)?,
            });
        }
    }
    Ok(measured)
}

/// The shortest time and the least memory of a line's contenders at a point.
fn best(measured: &[Measured], point: Point, (_, ours, bf16): (&str, bool, bool)) -> [f64; 2] {
    let is_of_line =
        |name: &str| name.starts_with("diffusion") == ours && name.ends_with(", bf16") == bf16;
    measured
        .iter()
        .filter(|known| known.point == point && is_of_line(&known.contender))
        .map(|known| [known.median_ms, known.peak_mib])
        .reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1])])
        .unwrap_or([f64::NAN; 2])
}

fn print_table(axis: usize, points: &[Point], measured: &[Measured]) {
    print!("| {} |", AXES[axis]);
    for (name, ..) in LINES {
        print!(" {name} |");
    }
    println!(" ratio, f32 | ratio, best |\n|---|{}", "---|".repeat(LINES.len() + 2));
    for &point in points {
        let cells = LINES.map(|line| best(measured, point, line));
        print!("| {} |", value(point, axis));
        for [ms, mib] in cells {
            if ms.is_nan() {
                print!(" – |");
            } else {
                print!(" {ms:.1} ms, {mib:.0} MiB |");
            }
        }
        let [ours, ours_bf16, torch, torch_bf16] = cells.map(|[ms, _]| ms);
        println!(" {:.2} | {:.2} |", ours / torch, ours.min(ours_bf16) / torch.min(torch_bf16));
    }
}

/// Two panels, time and memory.
fn chart(axis: usize, points: &[Point], measured: &[Measured]) -> Chart {
    let panel = |quantity: usize, y: &str| Panel {
        y: y.to_owned(),
        y_scale: Scale::Logarithmic,
        y_range: None,
        curves: LINES
            .iter()
            .map(|line| {
                let at = |&point: &Point| {
                    (f64::from(value(point, axis)), best(measured, point, *line)[quantity])
                };
                Curve::new(line.0, points.iter().map(at))
            })
            .filter(|curve| curve.points.iter().any(|(_, y)| y.is_finite()))
            .collect(),
    };
    let Point { side, batch, width, threads } = axes(&[points[0].threads])[3][0];
    let others = [
        format!("{side}×{side} pixels"),
        format!("batch of {batch}"),
        format!("{width} channels"),
        format!("{threads} threads"),
    ];
    let others: Vec<_> =
        others.into_iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, text)| text).collect();
    Chart {
        title: format!("A training step by {}: {}", AXES[axis], others.join(", ")),
        x: AXES[axis].to_owned(),
        x_scale: Scale::Logarithmic,
        panels: vec![panel(0, "milliseconds"), panel(1, "peak memory, MiB")],
    }
}
