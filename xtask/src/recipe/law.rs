//! `cargo xtask recipe-law`: quality by the width of the network and the length of the training.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use diffusion_data::ImageDataset;
use diffusion_train::{RunDir, TrainConfig, measure_pace};
use diffusion_unet::NetworkConfig;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::record::read_record;
use crate::cargo::{built_program, cargo, workspace_root};

/// Train networks of several widths, judge them during the training, and fit a law.
///
/// Each network is trained for the same time at a constant learning rate by `diffusion train
/// --preset colour-32`, and images of its moving average are judged --points times. The law gives
/// the Fréchet distance by the number of parameters P and of images n that the training has seen:
/// floor + A · P^-α + B · n^-β. The output ends with the numbers of the law, and the measured
/// distances next to those of the law.
///
/// The numbers of steps are fixed before a training, so other load on the machine later does not
/// matter. A stopped training is continued by the next call, with its own length and settings. The
/// record has a line for each judged point; recorded networks are not trained again. Without
/// --data, the law of the record is printed. All points of a law need the same size of pictures,
/// judge and number of images.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  cargo xtask recipe-law --data train.tar --judge judge.safetensors --against test.tar --minutes 20")]
pub(crate) struct RecipeLawArgs {
    /// Coloured pictures to train on
    #[arg(long, value_name = "PATH", requires_all = ["judge", "against"])]
    data: Option<PathBuf>,
    /// The judge, a file of `diffusion train-judge`
    #[arg(long, value_name = "FILE", requires = "data")]
    judge: Option<PathBuf>,
    /// Reference pictures that had no part in the training of the models
    #[arg(long, value_name = "PATH", requires = "data")]
    against: Option<PathBuf>,
    /// Height and width of the pictures, in pixels
    #[arg(long, value_name = "N", default_value_t = 32)]
    size: usize,
    /// Channels of the first level of each network, multiples of 32
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "32,64,96,128")]
    widths: Vec<usize>,
    /// Minutes of each training on this machine, without the judging
    #[arg(long, value_name = "M", default_value_t = 20.0)]
    minutes: f64,
    /// Times that each training is judged, evenly over its steps
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    points: u64,
    /// Images to judge at each point
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(64..))]
    num: u64,
    /// Folder for the runs
    #[arg(long, value_name = "DIR", default_value = "target/law")]
    out: PathBuf,
    /// Record of the results [default: assets/figures/law.jsonl]
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// The preset whose width is changed.
const PRESET: &str = "colour-32";

/// A line of the record: a network at a point of its training.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Point {
    /// The height and width of the pictures, in pixels.
    size: usize,
    /// The channels of the first level.
    width: usize,
    /// The parameters of the network without classes.
    parameters: usize,
    /// The number of images that the training has seen.
    images: u64,
    seconds_per_step: f64,
    frechet_distance: f64,
    class_accuracy: Option<f64>,
    /// The number of images that were judged.
    count: u64,
    judge: String,
}

pub(crate) fn run(args: &RecipeLawArgs) -> Result<()> {
    ensure!(args.minutes > 0.0, "--minutes must be above 0, got {}", args.minutes);
    if let Some(width) = args.widths.iter().find(|width| **width == 0 || !width.is_multiple_of(32))
    {
        bail!("--widths: {width} is not a multiple of 32");
    }
    let path =
        args.record.clone().unwrap_or_else(|| workspace_root().join("assets/figures/law.jsonl"));
    if let (Some(data), Some(judge), Some(against)) = (&args.data, &args.judge, &args.against) {
        cargo(&["build", "--workspace", "--bin", "diffusion"], &[])?;
        for &width in &args.widths {
            let is_known = |point: &Point| point.width == width && point.size == args.size;
            if read_record(&path)?.iter().any(is_known) {
                continue;
            }
            let points = train(args, [data, judge, against], width)?;
            let lines = points.iter().map(serde_json::to_string);
            let lines = lines.collect::<Result<Vec<_>, _>>()?.join("\n");
            let mut file = std::fs::File::options().create(true).append(true).open(&path)?;
            writeln!(file, "{lines}").with_context(|| path.display().to_string())?;
        }
    }
    let points: Vec<Point> = read_record(&path)?;
    let conditions = |point: &Point| (point.size, point.judge.clone(), point.count);
    let has_others = points.iter().any(|point| conditions(point) != conditions(&points[0]));
    ensure!(!has_others, "{}: the points have several sizes, judges or counts", path.display());
    let count = |value: fn(&Point) -> u64| points.iter().map(value).collect::<HashSet<_>>().len();
    ensure!(
        points.len() > 5 && count(|p| p.parameters as u64) >= 3 && count(|p| p.images) >= 3,
        "{}: a law needs more than 5 points, of at least 3 widths and 3 lengths",
        path.display()
    );
    let law = Law::fit(&points);
    println!(
        "| size | width | parameters | images | seconds per step | Fréchet distance | class \
         accuracy | the law's distance |\n|---|---|---|---|---|---|---|---|"
    );
    for point in &points {
        let accuracy =
            point.class_accuracy.map_or_else(|| "–".to_owned(), |a| format!("{:.1} %", 100.0 * a));
        println!(
            "| {} | {} | {} | {} | {:.3} | {:.2} | {accuracy} | {:.2} |",
            point.size,
            point.width,
            point.parameters,
            point.images,
            point.seconds_per_step,
            point.frechet_distance,
            law.at(point)
        );
    }
    println!(
        "\nlaw: {:.3} + {:.4e} · P^-{:.3} + {:.4e} · n^-{:.3}; relative deviation {:.1} %",
        law.floor,
        law.width_term,
        law.width_power,
        law.length_term,
        law.length_power,
        100.0 * law.deviation(&points)
    );
    Ok(())
}

/// What a training was started with. It is saved next to the run, for the calls that continue it.
#[derive(Serialize, Deserialize)]
struct Plan {
    steps: u64,
    /// The steps between two points.
    every: u64,
    /// The images of a point.
    count: u64,
    judge: PathBuf,
    seconds_per_step: f64,
}

/// Trains the network of `width`, or continues its training, and returns its points.
fn train(
    args: &RecipeLawArgs,
    [data, judge, against]: [&PathBuf; 3],
    width: usize,
) -> Result<Vec<Point>> {
    let run = args.out.join(format!("{}-{width}", args.size));
    let [file, plan] = ["toml", "json"].map(|ending| run.with_extension(ending));
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    if !plan.exists() {
        let mut config = with_width(TrainConfig::preset(PRESET)?, width);
        config.size = Some(args.size);
        let shape = [3, args.size, args.size];
        let bytes = vec![0; shape.iter().product::<usize>() * config.batch_size];
        let pictures = ImageDataset::new(bytes, None, shape)?;
        let pace = measure_pace(&mut config.trainer(&pictures, &Device::Cpu)?)?;
        let seconds_per_step = pace.seconds_per_step;
        let every = (60.0 * args.minutes / seconds_per_step / args.points as f64).ceil() as u64;
        let steps = every * args.points;
        let mut table = Table::new();
        table.insert("network".to_owned(), toml::Value::try_from(&config.network)?);
        table.insert(
            "lr_schedule".to_owned(),
            toml::Value::Table(toml::from_str("warmup_steps = 50\ndecay = { kind = 'constant' }")?),
        );
        table.insert("size".to_owned(), toml::Value::try_from(args.size)?);
        std::fs::write(&file, table.to_string()).with_context(|| file.display().to_string())?;
        let judge = judge.clone();
        let new = Plan { steps, every, count: args.num, judge, seconds_per_step };
        std::fs::write(&plan, serde_json::to_string(&new)?)
            .with_context(|| plan.display().to_string())?;
    }
    let Plan { steps, every, count, judge, seconds_per_step } =
        serde_json::from_str(&std::fs::read_to_string(&plan)?)
            .with_context(|| plan.display().to_string())?;
    let mut command = Command::new(built_program("diffusion")?);
    command.arg("train").arg("--run-dir").arg(&run);
    if run.join("config.toml").exists() {
        command.arg("--resume");
    } else {
        command.args(["--preset", PRESET, "--steps", &steps.to_string()]);
        command.arg("--config").arg(&file).arg("--data").arg(data);
    }
    command.args(["--eval-every", &every.to_string(), "--eval-num", &count.to_string()]);
    command.arg("--judge").arg(judge).arg("--against").arg(against);
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");

    let run_dir = RunDir::open(&run)?;
    let config = run_dir.read_config()?;
    let parameters = diffusion_nn::count_parameters(|vb| config.network.build(vb))?;
    let judged = run_dir.read_metrics()?.into_iter().filter_map(|metrics| {
        Some(Point {
            size: args.size,
            width,
            parameters,
            images: metrics.step * config.batch_size as u64,
            seconds_per_step,
            frechet_distance: *metrics.samples.get("frechet_distance")?,
            class_accuracy: metrics.samples.get("as_asked").copied(),
            count,
            judge: metrics.judge?,
        })
    });
    Ok(judged.collect())
}

/// The configuration with `width` channels in the first level and twice as many in the others.
fn with_width(mut config: TrainConfig, width: usize) -> TrainConfig {
    if let NetworkConfig::Unet2d(network) = &mut config.network {
        network.block_out_channels = vec![width, 2 * width, 2 * width];
    }
    config
}

/// The Fréchet distance by parameters P and images n.
#[derive(Clone, Copy, Debug)]
struct Law {
    floor: f64,
    width_term: f64,
    width_power: f64,
    length_term: f64,
    length_power: f64,
}

impl Law {
    /// The law with the least squared relative deviations from `points`.
    ///
    /// The floor and the powers are searched on a grid; the two factors of each are the solution of
    /// linear equations.
    fn fit(points: &[Point]) -> Self {
        let smallest = points.iter().map(|p| p.frechet_distance).fold(f64::MAX, f64::min);
        let powers = || (1..=40).map(|i| 0.05 * f64::from(i));
        let floors = (0..20).map(|i| 0.05 * f64::from(i) * smallest);
        let laws = floors.flat_map(|floor| {
            powers().flat_map(move |width_power| {
                powers().map(move |length_power| Self {
                    floor,
                    width_term: 0.0,
                    width_power,
                    length_term: 0.0,
                    length_power,
                })
            })
        });
        let fitted = laws.map(|law| law.with_factors(points));
        let by_deviation = |a: &Self, b: &Self| a.deviation(points).total_cmp(&b.deviation(points));
        fitted.min_by(by_deviation).expect("the grid has points")
    }

    /// The law with the best factors for its powers, at least 0.
    fn with_factors(self, points: &[Point]) -> Self {
        // The normal equations of Σ (floor + A·u + B·v − y)² / y².
        let [mut uu, mut uv, mut vv, mut ur, mut vr] = [0.0; 5];
        for point in points {
            let y = point.frechet_distance;
            let u = (point.parameters as f64).powf(-self.width_power) / y;
            let v = (point.images as f64).powf(-self.length_power) / y;
            let rest = (y - self.floor) / y;
            uu += u * u;
            uv += u * v;
            vv += v * v;
            ur += u * rest;
            vr += v * rest;
        }
        let determinant = uu * vv - uv * uv;
        let (width, length) =
            ((ur * vv - vr * uv) / determinant, (vr * uu - ur * uv) / determinant);
        let (width_term, length_term) = if width < 0.0 {
            (0.0, vr / vv)
        } else if length < 0.0 {
            (ur / uu, 0.0)
        } else {
            (width, length)
        };
        Self { width_term, length_term, ..self }
    }

    fn at(&self, point: &Point) -> f64 {
        self.floor
            + self.width_term * (point.parameters as f64).powf(-self.width_power)
            + self.length_term * (point.images as f64).powf(-self.length_power)
    }

    /// The root of the mean squared relative deviation.
    fn deviation(&self, points: &[Point]) -> f64 {
        let squares =
            points.iter().map(|point| (self.at(point) / point.frechet_distance - 1.0).powi(2));
        let deviation = (squares.sum::<f64>() / points.len() as f64).sqrt();
        // The equations of two proportional terms have no solution.
        if deviation.is_finite() { deviation } else { f64::INFINITY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_finds_the_law_of_exact_points() {
        let law = Law {
            floor: 0.0,
            width_term: 400.0,
            width_power: 0.4,
            length_term: 9000.0,
            length_power: 0.7,
        };
        let points: Vec<Point> = [
            (500_000, 1),
            (500_000, 8),
            (2_000_000, 2),
            (2_000_000, 4),
            (8_000_000, 1),
            (8_000_000, 3),
        ]
        .map(|(parameters, images)| Point {
            size: 32,
            width: 32,
            parameters,
            images: images * 50_000,
            seconds_per_step: 1.0,
            frechet_distance: 0.0,
            class_accuracy: None,
            count: 0,
            judge: String::new(),
        })
        .map(|point| Point { frechet_distance: law.at(&point), ..point })
        .to_vec();
        let fitted = Law::fit(&points);
        assert!(fitted.deviation(&points) < 1e-6, "{fitted:?}");
        assert!(
            (fitted.width_power - 0.4).abs() < 1e-6 && (fitted.length_power - 0.7).abs() < 1e-6
        );
    }
}
