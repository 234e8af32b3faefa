//! `cargo xtask train-judge`: the classifier whose features generated digits are judged by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use diffusion_data::{ImageDataset, mnist};
use diffusion_eval::{DigitJudge, Statistics};
use diffusion_kernels::in_pool;
use diffusion_nn::Parameters;
use diffusion_process::{Domain, NoiseSource};
use diffusion_train::{AdamW, AdamWConfig, Ema, EmaConfig, Gradients, LrDecay, LrSchedule};
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::cargo::workspace_root;
use crate::digits::training_digits;

/// Train the digit classifier that `diffusion evaluate samples` judges by: assets/digit-judge.safetensors.
///
/// It learns from all 60,000 training digits of MNIST, and its accuracy and the reference are those of the test digits. With
/// --for-search another one is made, which learns from five sixths of the training digits only, chosen by a hash, and whose reference is the
/// other sixth: recipes are chosen by it, so that the shipped judge and the test digits have no part in the choice.
#[derive(clap::Args)]
pub(crate) struct TrainJudgeArgs {
    /// The folder with MNIST's files, as `cargo xtask download mnist` makes it
    #[arg(long, value_name = "DIR", default_value = "data/mnist")]
    from: PathBuf,
    /// Make the judge that recipes are chosen by
    #[arg(long)]
    for_search: bool,
    /// Passes over the digits
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// The file to write [default: assets/digit-judge.safetensors, or target/recipe/judge.safetensors with --for-search]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Digits in an update.
const BATCH: usize = 128;
/// The learning rate after its warm-up, before it falls.
const LR: f64 = 3e-3;
const LR_SCHEDULE: LrSchedule = LrSchedule { warmup_steps: 200, decay: LrDecay::Cosine };
/// How far a digit is moved at most, in pixels.
const SHIFT: i64 = 2;
/// Digits whose features ship.
const REFERENCE: usize = 3000;

/// Where the judge that recipes are chosen by lies, in the workspace.
pub(crate) const SEARCH_JUDGE: &str = "target/recipe/judge.safetensors";

pub(crate) fn run(args: &TrainJudgeArgs) -> Result<()> {
    let default = if args.for_search { SEARCH_JUDGE } else { "assets/digit-judge.safetensors" };
    let out = args.out.clone().unwrap_or_else(|| workspace_root().join(default));
    train(&args.from, args.for_search, args.epochs, &out)
}

/// The digits that are learnt from, and those of the reference.
fn digits(from: &Path, for_search: bool) -> Result<(ImageDataset, ImageDataset)> {
    let train = training_digits(from)?;
    // A sixth, chosen by a hash, is about 10,000.
    if for_search { Ok(train.split(1.0 / 6.0)?) } else { Ok((train, mnist::load_test(from)?)) }
}

fn train(from: &Path, for_search: bool, epochs: u64, out: &Path) -> Result<()> {
    let (learnt, reference) = digits(from, for_search)?;
    ensure!(
        learnt.image_shape() == DigitJudge::IMAGE_SHAPE,
        "{}: not 28×28 and grey",
        from.display()
    );
    let device = Device::Cpu;
    let seed = u64::from(for_search);
    let (judge, parameters) = Parameters::initialise(seed, &device, |vb| DigitJudge::new(vb))?;
    println!(
        "{} parameters; {} digits to learn from, {} to judge by",
        parameters.count(),
        learnt.len(),
        reference.len()
    );
    let source = NoiseSource::new(seed);
    let mut optimizer = AdamW::new(
        AdamWConfig { lr: LR, weight_decay: 0.02, ..AdamWConfig::default() },
        &parameters,
    )?;
    let average = Ema::new(EmaConfig { decay: 0.998, ..EmaConfig::default() }, &parameters)?;
    let steps = learnt.len() / BATCH;
    let total = epochs * steps as u64;
    let start = Instant::now();
    for epoch in 0..epochs {
        let mut order: Vec<usize> = (0..learnt.len()).collect();
        order.shuffle(&mut source.rng(Domain::Shuffle, epoch, 0));
        let mut sum = 0.0;
        for (i, batch) in order.chunks_exact(BATCH).enumerate() {
            let step = epoch * steps as u64 + i as u64;
            let (images, labels) = shifted(&learnt, batch, source, step, &device)?;
            let loss = in_pool(|| {
                candle_nn::loss::cross_entropy(&judge.forward(&images)?.logits, &labels)
            })?;
            let mut gradients = Gradients::default();
            gradients.accumulate(&parameters, loss.backward()?)?;
            let lr = LR_SCHEDULE.lr(LR, step, LR_SCHEDULE.progress(step, total));
            optimizer.update(&parameters, &gradients, lr, Some(&average))?;
            sum += f64::from(loss.to_scalar::<f32>()?);
        }
        println!(
            "epoch {}: loss {:.4}, {:.0} s",
            epoch + 1,
            sum / steps as f64,
            start.elapsed().as_secs_f64()
        );
    }
    save(&average.tensors(), &reference, out)
}

/// The digits at `positions`, each moved a little.
fn shifted(
    digits: &ImageDataset,
    positions: &[usize],
    source: NoiseSource,
    step: u64,
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let [_, height, width] = DigitJudge::IMAGE_SHAPE;
    let mut pixels = vec![-1f32; positions.len() * height * width];
    let mut labels = Vec::with_capacity(positions.len());
    for (&position, pixels) in positions.iter().zip(pixels.chunks_exact_mut(height * width)) {
        let mut rng = source.rng(Domain::Augmentation, step, position as u64);
        let mut from_corner = || usize::try_from(SHIFT + rng.random_range(-SHIFT..=SHIFT));
        let (down, right) = (from_corner()?, from_corner()?);
        let digit = digits.image(position);
        let moved = |at: usize, by: usize, most: usize| {
            (at + SHIFT as usize).checked_sub(by).filter(|at| *at < most)
        };
        for (i, pixel) in pixels.iter_mut().enumerate() {
            if let (Some(y), Some(x)) =
                (moved(i / width, down, height), moved(i % width, right, width))
            {
                *pixel = f32::from(digit[y * width + x]) / 127.5 - 1.0;
            }
        }
        labels.push(digits.label(position).context("a digit without a label")?);
    }
    let images = Tensor::from_vec(pixels, (positions.len(), 1, height, width), device)?;
    Ok((images, Tensor::from_vec(labels, positions.len(), device)?))
}

/// Rounds the weights to half precision, and writes them with what the rounded network makes of the `reference`.
fn save(weights: &BTreeMap<String, Tensor>, reference: &ImageDataset, out: &Path) -> Result<()> {
    let mut file = BTreeMap::new();
    for (name, weight) in weights {
        file.insert(name.clone(), weight.to_dtype(DType::F16)?);
    }
    let rounded =
        file.iter().map(|(name, weight)| Ok((name.clone(), weight.to_dtype(DType::F32)?)));
    let rounded = rounded.collect::<candle_core::Result<BTreeMap<_, _>>>()?;
    let judge = diffusion_nn::load_frozen(rounded, &Device::Cpu, |vb| DigitJudge::new(vb))?;

    let all: Vec<usize> = (0..reference.len()).collect();
    let verdict = judge.judge(&reference.images(&all, &Device::Cpu)?)?;
    let read = verdict.logits.argmax(1)?.to_vec1::<u32>()?;
    let right =
        read.iter().enumerate().filter(|(i, class)| reference.label(*i) == Some(**class)).count();
    println!(
        "{right} of {} reference digits read rightly: {:.2} %",
        all.len(),
        right as f64 * 100.0 / all.len() as f64
    );

    let statistics = Statistics::of(&verdict.features)?;
    file.insert("reference.mean".to_owned(), statistics.mean()?.to_dtype(DType::F32)?);
    file.insert("reference.covariance".to_owned(), statistics.covariance()?.to_dtype(DType::F32)?);
    file.insert(
        "reference.features".to_owned(),
        verdict.features.narrow(0, 0, REFERENCE)?.to_dtype(DType::F16)?,
    );
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    safetensors::serialize_to_file(&file, None, out).with_context(|| out.display().to_string())?;
    let bytes = std::fs::read(out).with_context(|| out.display().to_string())?;
    DigitJudge::from_bytes(&bytes, &Device::Cpu)?;
    println!("{}: {} bytes", out.display(), bytes.len());
    Ok(())
}
