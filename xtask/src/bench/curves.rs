//! `cargo xtask bench --curves`: the time and memory of a training step by image size, batch, width
//! and number of threads.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use diffusion_report::{Chart, Curve, Panel, Scale};
use serde_json::json;

use super::contender::Contender;
use super::report::machine;
use super::{median, peak_mib, write_figures};
use crate::python::TORCH;

/// A training step of the U-Net `unet2d` of bench/networks.json.
#[derive(Clone, Copy, PartialEq, Eq)]
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

/// What one contender needs for a point.
struct Measured {
    point: Point,
    contender: Contender,
    milliseconds: f64,
    mib: f64,
}

/// The lines of the charts: a name, and the contenders of which the best counts.
const LINES: [(&str, bool, bool); 4] = [
    ("diffusion, f32", true, false),
    ("diffusion, bf16", true, true),
    ("PyTorch's best, f32", false, false),
    ("PyTorch's best, bf16", false, true),
];

/// Measures all points, and writes the figures to the file `json` and charts next to it.
pub(super) fn run(rounds: u32, threads: &[u32], python: &PathBuf, json: &Path) -> Result<()> {
    let contenders: Vec<_> =
        Contender::all().into_iter().filter(|contender| contender.is_main()).collect();
    let axes = axes(threads);
    let mut measured: Vec<Measured> = Vec::new();
    for &point in axes.iter().flatten() {
        if measured.iter().any(|known| known.point == point) {
            continue;
        }
        eprintln!("{} with {} threads", point.job(), point.threads);
        for &contender in &contenders {
            measured.push(measure(point, contender, rounds, python)?);
        }
    }
    let folder = json.parent().context("the file has no folder")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    println!("\n{}; {TORCH}; medians of {rounds} steps\n", machine());
    for (axis, points) in axes.iter().enumerate() {
        print_table(axis, points, &measured);
        let path = folder.join(format!("{}.svg", AXES[axis].replace(' ', "-")));
        chart(axis, points, &measured).write(&path)?;
        println!("chart: {}\n", path.display());
    }
    let rows = measured.iter().map(|Measured { point, contender, milliseconds, mib }| {
        json!({
            "side": point.side, "batch": point.batch, "width": point.width,
            "threads": point.threads, "contender": contender.to_string(),
            "median_ms": milliseconds, "peak_mib": mib,
        })
    });
    let figures = json!({
        "machine": machine(), "pytorch": TORCH, "rounds": rounds, "points": rows.collect::<Vec<_>>(),
    });
    write_figures(json, &figures)
}

/// The median time of a step after two others, and the peak memory of a process of its own.
fn measure(point: Point, contender: Contender, rounds: u32, python: &PathBuf) -> Result<Measured> {
    let mut worker = contender.start(point.threads, Some(python))?;
    let job = point.job();
    for _ in 0..2 {
        worker.run(&job)?;
    }
    let times = (0..rounds).map(|_| worker.run(&job)).collect::<Result<Vec<_>>>()?;
    Ok(Measured { point, contender, milliseconds: median(times), mib: peak_mib(&mut worker)? })
}

/// The shortest time and the least memory of a line's contenders at a point.
fn best(measured: &[Measured], point: Point, (_, ours, bf16): (&str, bool, bool)) -> [f64; 2] {
    let is_of_line = |contender: Contender| match contender {
        Contender::Kernels { bf16: other } => ours && other == bf16,
        Contender::Torch { bf16: other, .. } => !ours && other == bf16,
        _ => false,
    };
    measured
        .iter()
        .filter(|known| known.point == point && is_of_line(known.contender))
        .map(|known| [known.milliseconds, known.mib])
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
            print!(" {ms:.1} ms, {mib:.0} MiB |");
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
