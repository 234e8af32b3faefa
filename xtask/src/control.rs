//! `cargo xtask control-bench`: measures the figures of docs/control.md.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, mnist};
use diffusion_eval::{ClassShares, Judge, Reference};
use diffusion_model::{
    Batch, GenerationProgress, Generator, GuidanceConfig, GuidanceMethod, ImageSpec,
    LoadedClassifier, LoadedModel, Operation, SamplingConfig, Weights,
};
use diffusion_report::{Cell, sheet};
use diffusion_sample::edit::{
    GRAIN, INVERSION_ITERATIONS, INVERSION_STEPS, Inpainting, RESAMPLES, from_noise, inpaint,
    to_noise, with_grain,
};
use diffusion_sample::{Guidance, Progress, SamplerKind};
use serde_json::{Value, json};

use crate::bench::median;
use crate::judge::with_reference;
use crate::recipe::shipped_digits;

/// Measure guidance and edits of digits: the figures of docs/control.md.
///
/// Measures how many inpainted halves, changed classes and guided images the shipped judge
/// classifies as the expected digit, and the cost of a guided step. Edits test digits, which must
/// not be part of the model's training data. `diffusion evaluate guidance` gives the table of
/// guidance scales.
#[derive(clap::Args)]
pub(crate) struct ControlBenchArgs {
    /// Run or checkpoint of a class-conditional model of digits
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Also measure guidance by this classifier, from `diffusion train-classifier`
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
    /// Folder with MNIST's files, as written by `cargo xtask download mnist`
    #[arg(long, value_name = "DIR", default_value = "data/mnist")]
    from: PathBuf,
    /// Number of test digits to edit
    #[arg(long, value_name = "N", default_value = "200", value_parser = clap::value_parser!(u64).range(10..=10_000))]
    num: u64,
    /// Write figures and pictures to this folder
    #[arg(long, value_name = "DIR", default_value = "target/control")]
    out: PathBuf,
}

/// The batch size of the cost measurement.
const BATCH: usize = 64;
/// Numbers of inversion steps that noise on the picture (grain) replaces: none, and the default of
/// `diffusion edit reclass`.
const GRAINS: [usize; 2] = [0, (GRAIN * INVERSION_STEPS as f64) as usize];
const CLASSES: usize = 10;
/// The number of measured rounds of the cost.
const ROUNDS: usize = 9;

pub(crate) fn run(args: &ControlBenchArgs) -> Result<()> {
    let device = Device::Cpu;
    let model = LoadedModel::open(&args.run, Weights::Ema, &device)?;
    let classes = model.description.classes.len();
    ensure!(
        classes == CLASSES,
        "--run {}: expected a model with {CLASSES} classes, got {classes}",
        args.run.display()
    );
    let by_classifier = |path: &PathBuf| -> Result<GuidanceMethod> {
        Ok(GuidanceMethod::by_classifier(
            LoadedClassifier::open(path, &device)?,
            &model.description,
        )?)
    };
    let mut classifier = args.classifier.as_ref().map(by_classifier).transpose()?;
    let (judge, reference) = with_reference(Judge::shipped(&device)?)?;
    let test = mnist::load_test(&args.from).with_context(|| args.from.display().to_string())?;
    let num = args.num as usize;
    let positions: Vec<usize> = (0..num).map(|i| i * test.len() / num).collect();
    let labels: Option<Vec<u32>> = positions.iter().map(|i| test.label(*i)).collect();
    let bench = Bench {
        digits: test.images(&positions, &device)?,
        labels: labels.context("the test digits have no labels")?,
        model,
        judge,
        reference,
        out: args.out.clone(),
    };
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let mut figures = json!({
        "steps_trained": bench.model.step,
        "inpainting": bench.inpainting(&shipped_digits()?)?,
        "inversion": bench.inversions()?,
    });
    let mut guided =
        classifier.take().map(|method| GuidanceConfig { method, ..GuidanceConfig::default() });
    if let Some(guided) = &mut guided {
        figures["classifier_guidance"] = bench.by_classifier(guided)?;
    }
    figures["cost"] = bench.cost(guided)?;
    let path = args.out.join("control.json");
    std::fs::write(&path, format!("{figures:#}\n")).with_context(|| path.display().to_string())?;
    println!("all figures: {}", path.display());
    Ok(())
}

struct Bench {
    model: LoadedModel,
    judge: Judge,
    reference: Reference,
    /// Test digits (N, 1, 28, 28).
    digits: Tensor,
    /// The classes of `digits`.
    labels: Vec<u32>,
    out: PathBuf,
}

impl Bench {
    /// The default sampling settings of `diffusion sample`.
    fn sampling(&self) -> Result<SamplingConfig> {
        let objective = &self.model.objective;
        let kind = objective.default_sampler(false);
        Ok(SamplingConfig::new(&self.model, kind, objective.default_steps(kind))?)
    }

    /// Runs `operation` for images of these classes, and returns its images (N, C, H, W).
    fn apply(
        &self,
        config: SamplingConfig,
        guidance: &GuidanceConfig,
        classes: impl Iterator<Item = Option<u32>>,
        operation: Box<Operation<'_>>,
    ) -> Result<Tensor> {
        let specs: Vec<ImageSpec> =
            (0..).zip(classes).map(|(index, class)| ImageSpec { index, class }).collect();
        let generator = Generator { model: &self.model, config, guidance };
        let steps = generator.config.plan.steps().len();
        let mut observer = |_: &GenerationProgress<'_>| ControlFlow::Continue(());
        Ok(generator.apply(&specs, steps, operation, &mut observer).all()?)
    }

    /// Images of these classes (N, C, H, W), as sampled by `diffusion sample`.
    fn images(
        &self,
        guidance: &GuidanceConfig,
        classes: impl Iterator<Item = Option<u32>>,
    ) -> Result<Tensor> {
        let operation = |batch: &mut Batch<'_>| Ok(batch.sample(None)?.clamp(-1f32, 1f32)?);
        self.apply(self.sampling()?, guidance, classes, Box::new(operation))
    }

    /// The share of `images` (N, C, H, W) that the judge classifies as `classes`.
    fn accuracy(&self, images: &Tensor, classes: &[u32]) -> Result<f64> {
        let classes: Vec<Option<u32>> = classes.iter().copied().map(Some).collect();
        let share = ClassShares::class_accuracy(&self.judge.judge(images)?.logits, &classes)?;
        share.context("no images to classify")
    }

    /// Inpaints the lower half of each digit unconditionally, and compares with two baselines:
    /// background, and the mean of the `training` digits.
    fn inpainting(&self, training: &ImageDataset) -> Result<Value> {
        let (_, _, height, width) = self.digits.dims4()?;
        let lower = (0..height * width).map(|i| f32::from(u8::from(i / width >= height / 2)));
        let mask = Tensor::from_iter(lower, &Device::Cpu)?.reshape((1, 1, height, width))?;
        let hidden = mask.broadcast_as(self.digits.shape())?.contiguous()?.ne(0f32)?;
        let filled = |by: &Tensor| -> Result<Tensor> {
            Ok(hidden
                .where_cond(&by.broadcast_as(self.digits.shape())?.contiguous()?, &self.digits)?)
        };
        let all: Vec<usize> = (0..training.len()).collect();
        let mean = training.images(&all, &Device::Cpu)?.mean_keepdim(0)?;
        let background = filled(&mean.ones_like()?.neg()?)?;
        let mean = filled(&mean)?;

        let operation = |batch: &mut Batch<'_>| {
            let Batch { range, denoiser, sampler, plan, request, observer } = batch;
            let pictures = self.digits.narrow(0, range.start, range.len())?;
            let inpainting = Inpainting { pictures: &pictures, mask: &mask, resamples: RESAMPLES };
            let observer = &mut |p: Progress<'_>| observer(p.done, Some(&p));
            inpaint(&inpainting, *denoiser, *sampler, plan, request, observer)
        };
        let unconditional = self.labels.iter().map(|_| None);
        let inpainted = self.apply(
            self.sampling()?,
            &GuidanceConfig::default(),
            unconditional,
            Box::new(operation),
        )?;
        let error = (&inpainted - &self.digits)?.abs()?;
        let known_error = error.broadcast_mul(&mask.affine(-1.0, 1.0)?)?;
        let known_error = known_error.max_all()?.to_scalar::<f32>()?;

        let rows = [
            ("given", "original", &self.digits),
            ("background", "background", &background),
            ("mean", "mean", &mean),
            ("model", "model", &inpainted),
        ];
        let mut shares = json!({ "largest_change_of_a_known_pixel": known_error });
        println!(
            "{} test digits with inpainted lower half, share classified correctly:",
            self.labels.len()
        );
        for (key, label, images) in rows {
            let share = self.accuracy(images, &self.labels)?;
            println!("  {label:<12} {:5.1} %", share * 100.0);
            shares[key] = share.into();
        }
        println!("  known pixels differ by at most {known_error}");
        self.write_sheet("inpainting.png", &rows.map(|(_, label, images)| (label, images)))?;
        Ok(shares)
    }

    /// Writes a picture with a labelled row for each set of images (N, C, H, W).
    fn write_sheet(&self, name: &str, rows: &[(&str, &Tensor)]) -> Result<()> {
        const SHOWN: usize = 16;
        let mut cells: Vec<Vec<Cell>> = Vec::new();
        for (_, images) in rows {
            // Spread evenly, because neighbours in the file are often by the same writer.
            let shown = diffusion_eval::spread(&images.clamp(-1f32, 1f32)?, SHOWN)?;
            cells.push(
                diffusion_picture::from_tensor(&shown)?
                    .into_iter()
                    .map(|p| p.enlarged(2).into())
                    .collect(),
            );
        }
        let names: Vec<String> = rows.iter().map(|(name, _)| (*name).to_owned()).collect();
        let columns = vec![String::new(); cells[0].len()];
        let path = self.out.join(name);
        sheet(&cells, &names, &columns)?.write_png(&path)?;
        println!("  picture: {}", path.display());
        Ok(())
    }

    /// Inverts each digit to noise, and samples from that noise the same digit and another one.
    fn inversions(&self) -> Result<Value> {
        // A different class for each digit, with all differences equally often.
        let targets: Vec<u32> = (0u32..)
            .zip(&self.labels)
            .map(|(i, label)| (label + 1 + i % 9) % CLASSES as u32)
            .collect();
        let mut figures = Vec::new();
        for grain in GRAINS {
            let reclassed =
                |from: &[u32], to: &[u32], scale: f64| self.reclassed(grain, from, to, scale);
            let reconstructed = reclassed(&self.labels, &self.labels, 1.0)?;
            let error = (&reconstructed - &self.digits)?.abs()?.mean_all()?.to_scalar::<f32>()?;
            let error = f64::from(error) * 127.5;
            println!(
                "inverted and reconstructed, {grain} of {INVERSION_STEPS} steps replaced by grain: \
                 mean absolute error {error:.2} of 255"
            );
            let mut figure = json!({ "grain_steps": grain, "mean_error_of_255": error });
            for scale in [1.0, self.model.description.guidance().scale, 2.0] {
                let changed = reclassed(&self.labels, &targets, scale)?;
                let share = self.accuracy(&changed, &targets)?;
                let [slant, ink] =
                    [slants, inks].map(|of: fn(&Tensor) -> Result<Vec<f64>>| -> Result<f64> {
                        Ok(correlation(&of(&self.digits)?, &of(&changed)?))
                    });
                let [slant, ink] = [slant?, ink?];
                println!(
                    "  changed class, guidance scale {scale}: {:.1} % classified as the new class; \
                     correlation of slant {slant:.2}, of ink {ink:.2}",
                    share * 100.0
                );
                figure[format!("guidance_{scale}")] = json!({
                    "read_as_asked": share, "slant_correlation": slant, "ink_correlation": ink,
                });
                if grain > 0 && scale == 2.0 {
                    let rows = [
                        ("original", &self.digits),
                        ("reconstructed", &reconstructed),
                        ("changed", &changed),
                    ];
                    self.write_sheet("changed.png", &rows)?;
                }
            }
            figures.push(figure);
        }
        Ok(figures.into())
    }

    /// The digits, inverted as the classes `from` and sampled as the classes `to`.
    fn reclassed(&self, grain: usize, from: &[u32], to: &[u32], scale: f64) -> Result<Tensor> {
        let config = SamplingConfig::new(&self.model, SamplerKind::Ddim, INVERSION_STEPS)?;
        let inversion = |batch: &mut Batch<'_>| {
            let Batch { range, denoiser, plan, request, observer, .. } = batch;
            let pictures = self.digits.narrow(0, range.start, range.len())?;
            let (grained, front) = with_grain(&pictures, grain, plan, request)?;
            to_noise(&grained, *denoiser, &front, INVERSION_ITERATIONS, &mut |done| {
                observer(done, None)
            })
        };
        let classes =
            |classes: &[u32]| classes.iter().copied().map(Some).collect::<Vec<_>>().into_iter();
        let plain = GuidanceConfig::default();
        let noise = self.apply(config.clone(), &plain, classes(from), Box::new(inversion))?;
        let sampling = |batch: &mut Batch<'_>| {
            let Batch { range, denoiser, plan, observer, .. } = batch;
            let noise = noise.narrow(0, range.start, range.len())?;
            let observer = &mut |p: Progress<'_>| observer(p.done, Some(&p));
            Ok(from_noise(&noise, *denoiser, plan, observer)?.clamp(-1f32, 1f32)?)
        };
        let guided = GuidanceConfig::classifier_free(Guidance::new(scale));
        self.apply(config, &guided, classes(to), Box::new(sampling))
    }

    /// Samples a hundred digits of each class with the unconditional model and classifier guidance.
    fn by_classifier(&self, guided: &mut GuidanceConfig) -> Result<Value> {
        let each = 100;
        let classes: Vec<u32> = (0..CLASSES as u32 * each).map(|i| i % CLASSES as u32).collect();
        let mut figures = Vec::new();
        println!("classifier guidance of the unconditional model, {each} digits of each class:");
        for scale in [0.0, 1.0, 2.0, 4.0, 8.0] {
            guided.guidance = Guidance::new(scale);
            let images = self.images(guided, classes.iter().copied().map(Some))?;
            let share = self.accuracy(&images, &classes)?;
            let quality = self.reference.quality(&self.judge.judge(&images)?.features)?;
            let (distance, recall) = (quality.frechet_distance, quality.agreement.recall);
            println!(
                "  scale {scale}: class accuracy {:.1} %, Fréchet distance {distance:.2}, \
                 recall {recall:.3}",
                share * 100.0
            );
            figures.push(json!({
                "scale": scale, "read_as_asked": share, "frechet_distance": distance,
                "recall": recall,
            }));
        }
        Ok(figures.into())
    }

    /// The time of guided sampling relative to unguided sampling: medians of rounds, in turns.
    fn cost(&self, classifier: Option<GuidanceConfig>) -> Result<Value> {
        let classes = || (0..BATCH as u32).map(|i| Some(i % CLASSES as u32));
        let free = GuidanceConfig::classifier_free(Guidance::new(2.0));
        let mut contenders =
            vec![("unguided", GuidanceConfig::default()), ("classifier-free", free)];
        if let Some(classifier) = classifier {
            contenders.push((
                "classifier",
                GuidanceConfig { guidance: Guidance::new(2.0), ..classifier },
            ));
        }
        let mut seconds = vec![Vec::new(); contenders.len()];
        for round in 0..=ROUNDS {
            for ((_, guidance), seconds) in contenders.iter().zip(&mut seconds) {
                let start = Instant::now();
                self.images(guidance, classes())?;
                // Round 0 fills the caches and is not counted.
                if round > 0 {
                    seconds.push(start.elapsed().as_secs_f64());
                }
            }
        }
        let threads = rayon::current_num_threads();
        println!("{BATCH} digits on {threads} threads, medians of {ROUNDS} rounds:");
        let mut figures = json!({ "threads": threads });
        let mut unguided = None;
        for ((name, _), seconds) in contenders.iter().zip(seconds) {
            let median = median(seconds);
            let ratio = median / *unguided.get_or_insert(median);
            println!("  {name:<16} {median:.2} s, {ratio:.2} times the unguided time");
            figures[*name] = json!({ "seconds": median, "ratio": ratio });
        }
        Ok(figures)
    }
}

/// The slant of each of `digits` (N, 1, H, W): the shift of its ink to the left per pixel
/// downwards, in pixels.
fn slants(digits: &Tensor) -> Result<Vec<f64>> {
    let (_, _, height, width) = digits.dims4()?;
    let ink = |pixel: f32| f64::from(f32::midpoint(pixel, 1.0));
    let of = |pixels: &[f32]| {
        let places = |i: usize| [(i / width) as f64, (i % width) as f64];
        let mut sums = [0.0; 3];
        for (i, pixel) in pixels.iter().enumerate() {
            let [y, x] = places(i);
            for (sum, part) in sums.iter_mut().zip([1.0, y, x]) {
                *sum += ink(*pixel) * part;
            }
        }
        let [all, y_mean, x_mean] = [sums[0], sums[1] / sums[0], sums[2] / sums[0]];
        let [mut across, mut down] = [0.0; 2];
        for (i, pixel) in pixels.iter().enumerate() {
            let [y, x] = places(i);
            across += ink(*pixel) * (y - y_mean) * (x - x_mean) / all;
            down += ink(*pixel) * (y - y_mean) * (y - y_mean) / all;
        }
        -across / down
    };
    let pixels = digits.flatten_all()?.to_vec1::<f32>()?;
    Ok(pixels.chunks_exact(height * width).map(of).collect())
}

/// The share of white of each of `digits` (N, 1, H, W), which grows with the width of the strokes.
fn inks(digits: &Tensor) -> Result<Vec<f64>> {
    let shares = digits.affine(0.5, 0.5)?.mean((1, 2, 3))?.to_vec1::<f32>()?;
    Ok(shares.into_iter().map(f64::from).collect())
}

/// Pearson's correlation coefficient.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let [mean_a, mean_b] = [mean(a), mean(b)];
    let [mut ab, mut aa, mut bb] = [0.0; 3];
    for (a, b) in a.iter().zip(b) {
        ab += (a - mean_a) * (b - mean_b);
        aa += (a - mean_a).powi(2);
        bb += (b - mean_b).powi(2);
    }
    ab / (aa * bb).sqrt()
}
