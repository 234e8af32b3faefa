//! `cargo xtask recipe-curve`: measures the quality of digits against training time, for the
//! default recipe and for the recipe of the tutorial (Learn AI Series #84, Generative Images –
//! Diffusion Models, Part 1).

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::Device;
use diffusion_eval::{ClassShares, Judge, SampleQuality, TrainingImages, spread};
use diffusion_model::{ClassChoice, Generation, LoadedModel, Objective, Weights};
use diffusion_report::{Chart, Curve, Panel, Scale};
use diffusion_sample::{SamplerKind, SamplerOptions, VarianceType};
use diffusion_train::{TrainConfig, ema_model};
use serde_json::{Value, json};

use super::data::{JudgedImages, RecipeData};
use super::rows::PRESET;
use super::shipped_digits;
use crate::cargo::workspace_root;
use crate::digits::training_digits;
use crate::judge::with_reference;

/// Draw the Fréchet distance from MNIST's test digits against minutes of training:
/// assets/figures/curve.svg and curve.json.
///
/// The default preset is trained from scratch on the shipped digits for each of --minutes, because
/// its learning rate decays to the end of that time. The preset `tutorial` is trained once, on all
/// of MNIST, and judged after each epoch. Minutes count training only. The time of `tutorial` is
/// its number of steps times the lower quartile of a step's time, which other load on the machine
/// hardly changes. A second curve shows the time of the same arithmetic in PyTorch, by
/// --torch-ratio.
#[derive(clap::Args)]
pub(crate) struct RecipeCurveArgs {
    /// Folder with MNIST's files, as written by `cargo xtask download mnist`: the training data of
    /// the preset `tutorial`, and the source of MNIST's class frequencies
    #[arg(long, value_name = "DIR", default_value = "data/mnist")]
    from: PathBuf,
    /// Minutes of the trainings of the default preset; without a value: no training
    #[arg(long, value_name = "MINUTES", value_delimiter = ',', num_args = 0.., default_value = "1,2,5,30")]
    minutes: Vec<f64>,
    /// Epochs of the preset `tutorial`; 0: no training
    #[arg(long, value_name = "N", default_value = "5")]
    epochs: u64,
    /// Time of a training step divided by that of PyTorch, as measured by `cargo xtask bench`
    #[arg(long, value_name = "RATIO")]
    torch_ratio: f64,
    /// Number of digits to judge of each training of the default preset
    #[arg(long, value_name = "N", default_value = "10000")]
    num: u64,
    /// Number of digits to judge of the preset `tutorial`, which needs 200 steps for each
    #[arg(long, value_name = "N", default_value = "2000")]
    tutorial_num: u64,
    /// Checkpoints of earlier trainings of the default preset, each with its minutes
    #[arg(long = "made", value_name = "MINUTES=DIR", value_delimiter = ',', value_parser = checkpoint)]
    checkpoints: Vec<(f64, PathBuf)>,
    /// Keep the points in curve.json and add to them
    #[arg(long)]
    add: bool,
    /// Folder for checkpoints
    #[arg(long, value_name = "DIR", default_value = "target/recipe/curve")]
    out: PathBuf,
}

/// The number of digits for each point of the curves, because the distance depends on it.
const COMPARED: usize = 1000;

/// Parses `MINUTES=DIR`.
fn checkpoint(text: &str) -> Result<(f64, PathBuf), String> {
    let parts =
        text.split_once('=').and_then(|(minutes, dir)| Some((minutes.parse().ok()?, dir.into())));
    parts.ok_or_else(|| "expected MINUTES=DIR, for example 30=runs/mnist-1".to_owned())
}

pub(crate) fn run(args: &RecipeCurveArgs) -> Result<()> {
    let folder = workspace_root().join("assets/figures");
    let path = folder.join("curve.json");
    let mut points: Vec<Value> = match std::fs::read(&path) {
        Ok(bytes) if args.add => {
            serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?
        }
        _ => Vec::new(),
    };
    let (judge, reference) = with_reference(Judge::shipped(&Device::Cpu)?)?;
    let subject = RecipeData { pictures: shipped_digits()?, judge, reference };
    let digits = &subject.pictures;
    let all: Vec<usize> = (0..digits.len()).collect();
    let training_images = TrainingImages::new(&digits.images(&all, &Device::Cpu)?, false)?;
    let train = training_digits(&args.from)?;
    let mnist_labels = (0..train.len()).filter_map(|i| train.label(i)).collect();
    let bench = CurveBench { subject: &subject, training_images, mnist_labels };
    let mut save = |point: Value| -> Result<()> {
        println!("{point}");
        let same = |other: &Value, key: &str| {
            other["recipe"] == point["recipe"] && other[key] == point[key]
        };
        points.retain(|other| !same(other, "minutes") && !same(other, "steps"));
        points.push(point);
        std::fs::write(&path, format!("{:#}\n", Value::from(points.clone())))?;
        chart(&points).write(&folder.join("curve.svg"))?;
        Ok(())
    };

    for &minutes in &args.minutes {
        let mut config = TrainConfig::preset(PRESET)?;
        (config.steps, config.epochs, config.max_minutes) = (None, None, Some(minutes));
        let mut trainer = config.trainer(digits, &Device::Cpu)?;
        let start = Instant::now();
        while !trainer.is_finished() {
            trainer.step()?;
            trainer.set_elapsed(start.elapsed());
        }
        trainer.checkpoint()?.write(&args.out.join(format!("mnist-{minutes}")))?;
        save(bench.point(
            "default",
            [minutes; 2],
            trainer.steps_done(),
            &ema_model(&trainer)?,
            &default_generation(trainer.objective(), args.num),
        )?)?;
    }
    for (minutes, path) in &args.checkpoints {
        let model = LoadedModel::open(path, Weights::Ema, &Device::Cpu)?;
        save(bench.point(
            "default",
            [*minutes; 2],
            model.step,
            &model,
            &default_generation(&model.objective, args.num),
        )?)?;
    }

    if args.epochs == 0 {
        // The points in curve.json may be older than the chart's labels.
        return Ok(chart(&points).write(&folder.join("curve.svg"))?);
    }
    let mut config = TrainConfig::preset("tutorial")?;
    (config.steps, config.epochs, config.max_minutes) = (None, Some(args.epochs), None);
    let mut trainer = config.trainer(&train, &Device::Cpu)?;
    let mut seconds = Vec::new();
    for epoch in 1..=args.epochs {
        for _ in 0..trainer.steps_per_epoch() {
            let start = Instant::now();
            trainer.step()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let minutes = seconds[seconds.len() / 4] * seconds.len() as f64 / 60.0;
        trainer.checkpoint()?.write(&args.out.join(format!("tutorial-{epoch}")))?;
        // The tutorial samples like this.
        let options =
            SamplerOptions { variance: VarianceType::FixedLarge, ..SamplerOptions::default() };
        let sampler = SamplerKind::Ddpm;
        let steps = trainer.objective().default_steps(sampler);
        let generation = Generation {
            sampler: Some(sampler),
            steps: Some(steps),
            options: Some(options),
            clip: false,
            ..Generation::new(args.tutorial_num)
        };
        let minutes = [minutes, minutes / args.torch_ratio];
        let model = ema_model(&trainer)?;
        save(bench.point("tutorial", minutes, trainer.steps_done(), &model, &generation)?)?;
    }
    Ok(())
}

/// Measures the points of the curves.
struct CurveBench<'a> {
    subject: &'a RecipeData,
    training_images: TrainingImages,
    /// The labels of MNIST's training digits, whose classes are not equally frequent.
    mnist_labels: Vec<u32>,
}

impl CurveBench<'_> {
    /// The metrics of `model` after training for these minutes, here and in PyTorch.
    fn point(
        &self,
        recipe: &str,
        [minutes, torch_minutes]: [f64; 2],
        steps: u64,
        model: &LoadedModel,
        generation: &Generation,
    ) -> Result<Value> {
        let JudgedImages { images, sampling_seconds, quality, classes, .. } =
            self.subject.generate_and_judge(model, generation)?;
        let memorisation = self.training_images.memorisation(&spread(&images, 2000)?)?;
        let compared = self.subject.judge.judge(&spread(&images, COMPARED)?)?;
        let of_compared = self.subject.reference.quality(&compared.features)?;
        let mut point = json!({
            "recipe": recipe, "minutes": minutes, "torch_minutes": torch_minutes, "steps": steps,
            "sampler": generation.sampler.map(SamplerKind::name), "sampling_steps": generation.steps,
            "sampling_seconds": sampling_seconds,
            "of_all": figures(&quality, &classes),
            "of_1000": figures(&of_compared, &ClassShares::of(&compared.logits)?),
            "copies": memorisation.copies, "nearest": memorisation.nearest,
            "training_nearest": memorisation.training_nearest,
        });
        // The classes of the shipped digits are equally frequent, those of the test digits are not.
        if recipe == "default" {
            let classes = ClassChoice::Listed(self.mnist_labels.clone());
            let generation = Generation { classes, ..generation.clone() };
            let JudgedImages { quality, classes, .. } =
                self.subject.generate_and_judge(model, &generation)?;
            point["in_the_proportions_of_mnist"] = figures(&quality, &classes);
        }
        Ok(point)
    }
}

fn figures(quality: &SampleQuality, classes: &ClassShares) -> Value {
    json!({
        "count": quality.count, "frechet_distance": quality.frechet_distance, "sure": classes.sure,
        "confidence": classes.confidence, "class_shares": classes.shares,
        "precision": quality.agreement.precision,
        "recall": quality.agreement.recall, "density": quality.agreement.density,
        "coverage": quality.agreement.coverage,
    })
}

/// `num` digits with the default settings of `diffusion sample`.
fn default_generation(objective: &Objective, num: u64) -> Generation {
    let sampler = objective.default_sampler(false);
    Generation {
        sampler: Some(sampler),
        steps: Some(objective.default_steps(sampler)),
        ..Generation::new(num)
    }
}

fn chart(points: &[Value]) -> Chart {
    let curve = |name: &str, recipe: &str, minutes: &str, value: &str| {
        let own = points.iter().filter(|point| point["recipe"] == recipe);
        let mut points: Vec<_> = own
            .filter_map(|point| Some((point[minutes].as_f64()?, point["of_1000"][value].as_f64()?)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve::new(name, points)
    };
    let curves = |value: &str| {
        let mut curves = vec![
            curve("diffusion train", "default", "minutes", value),
            curve("the tutorial's recipe in PyTorch", "tutorial", "torch_minutes", value),
            curve("the same recipe by --preset tutorial", "tutorial", "minutes", value),
        ];
        curves.retain(|curve| !curve.points.is_empty());
        curves
    };
    let distance = Panel {
        y: "Fréchet distance".to_owned(),
        y_scale: Scale::Logarithmic,
        y_range: None,
        curves: curves("frechet_distance"),
    };
    let sure = Panel {
        y: "share classified confidently".to_owned(),
        y_scale: Scale::Linear,
        y_range: Some((0.0, 1.0)),
        curves: curves("sure"),
    };
    Chart {
        title: "Quality of digits against training time on two cores".to_owned(),
        x: "minutes".to_owned(),
        x_scale: Scale::Linear,
        panels: vec![distance, sure],
    }
}
