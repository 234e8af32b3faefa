//! `cargo xtask train-judge`: trains the classifier whose features are used to judge digits.

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

/// Train the digit classifier of `diffusion evaluate samples`: assets/digit-judge.safetensors.
///
/// It learns from all 60,000 training digits of MNIST. The test digits give its accuracy and the
/// reference set. With --for-search, it learns from five sixths of the training digits, chosen by a
/// hash, and the other sixth is the reference set. Recipes are chosen with that judge, so that the
/// shipped judge and the test digits have no part in the choice.
#[derive(clap::Args)]
pub(crate) struct TrainJudgeArgs {
    /// Folder with MNIST's files, as written by `cargo xtask download mnist`
    #[arg(long, value_name = "DIR", default_value = "data/mnist")]
    from: PathBuf,
    /// Train the judge of the recipe search
    #[arg(long)]
    for_search: bool,
    /// Epochs of the training
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// Write the judge to this file [default: assets/digit-judge.safetensors, or
    /// target/recipe/judge.safetensors with --for-search]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The batch size.
const BATCH: usize = 128;
/// The learning rate after the warm-up, before it decays.
const LR: f64 = 3e-3;
const LR_SCHEDULE: LrSchedule = LrSchedule { warmup_steps: 200, decay: LrDecay::Cosine };
/// The largest shift of a digit by the augmentation, in pixels.
const SHIFT: i64 = 2;
/// The number of reference digits whose features are stored in the file.
const REFERENCE: usize = 3000;

/// The path of the recipe search's judge in the workspace.
pub(crate) const SEARCH_JUDGE: &str = "target/recipe/judge.safetensors";

pub(crate) fn run(args: &TrainJudgeArgs) -> Result<()> {
    let default = if args.for_search { SEARCH_JUDGE } else { "assets/digit-judge.safetensors" };
    let out = args.out.clone().unwrap_or_else(|| workspace_root().join(default));
    train(&args.from, args.for_search, args.epochs, &out)
}

/// The training digits and the reference digits.
fn digits(from: &Path, for_search: bool) -> Result<(ImageDataset, ImageDataset)> {
    let train = training_digits(from)?;
    // A sixth, chosen by a hash: about 10,000 digits.
    if for_search { Ok(train.split(1.0 / 6.0)?) } else { Ok((train, mnist::load_test(from)?)) }
}

fn train(from: &Path, for_search: bool, epochs: u64, out: &Path) -> Result<()> {
    let (train, reference) = digits(from, for_search)?;
    ensure!(
        train.image_shape() == DigitJudge::IMAGE_SHAPE,
        "{}: expected grey images of 28×28 pixels",
        from.display()
    );
    let device = Device::Cpu;
    let seed = u64::from(for_search);
    let (judge, parameters) = Parameters::initialise(seed, &device, |vb| DigitJudge::new(vb))?;
    println!(
        "{} parameters; {} training digits, {} reference digits",
        parameters.count(),
        train.len(),
        reference.len()
    );
    let source = NoiseSource::new(seed);
    let mut optimizer = AdamW::new(
        AdamWConfig { lr: LR, weight_decay: 0.02, ..AdamWConfig::default() },
        &parameters,
    )?;
    let average = Ema::new(EmaConfig { decay: 0.998, ..EmaConfig::default() }, &parameters)?;
    let steps = train.len() / BATCH;
    let total = epochs * steps as u64;
    let start = Instant::now();
    for epoch in 0..epochs {
        let mut order: Vec<usize> = (0..train.len()).collect();
        order.shuffle(&mut source.rng(Domain::Shuffle, epoch, 0));
        let mut sum = 0.0;
        for (i, batch) in order.chunks_exact(BATCH).enumerate() {
            let step = epoch * steps as u64 + i as u64;
            let (images, labels) = shifted(&train, batch, source, step, &device)?;
            let loss = in_pool(|| {
                candle_nn::loss::cross_entropy(&judge.forward(&images)?.logits, &labels)
            })?;
            let gradients = Gradients::new(&parameters, loss.backward()?);
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

/// The digits at `positions` (N, 1, 28, 28), each shifted randomly by at most [`SHIFT`] pixels, and
/// their labels (N).
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
        labels.push(digits.label(position).context("a digit has no label")?);
    }
    let images = Tensor::from_vec(pixels, (positions.len(), 1, height, width), device)?;
    Ok((images, Tensor::from_vec(labels, positions.len(), device)?))
}

/// Rounds the weights to half precision and writes them to `out`, with the statistics and features
/// of the `reference` digits, as computed by the rounded network.
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
    let judgement = judge.judge(&reference.images(&all, &Device::Cpu)?)?;
    let predicted = judgement.logits.argmax(1)?.to_vec1::<u32>()?;
    let correct = predicted
        .iter()
        .enumerate()
        .filter(|(i, class)| reference.label(*i) == Some(**class))
        .count();
    println!(
        "{correct} of {} reference digits classified correctly: {:.2} %",
        all.len(),
        correct as f64 * 100.0 / all.len() as f64
    );

    let statistics = Statistics::of(&judgement.features)?;
    file.insert("reference.mean".to_owned(), statistics.mean()?.to_dtype(DType::F32)?);
    file.insert("reference.covariance".to_owned(), statistics.covariance()?.to_dtype(DType::F32)?);
    file.insert(
        "reference.features".to_owned(),
        judgement.features.narrow(0, 0, REFERENCE)?.to_dtype(DType::F16)?,
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
