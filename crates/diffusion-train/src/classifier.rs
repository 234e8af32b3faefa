//! Training a classifier of noisy images, to guide samplings by.

use std::f64::consts::FRAC_PI_2;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, Loader, LoaderConfig};
use diffusion_kernels::in_pool;
use diffusion_model::{ClassifierDescription, LoadedClassifier};
use diffusion_nn::Parameters;
use diffusion_process::{Levels, NoiseLevel, log_likelihood};
use diffusion_random::{Domain, NoiseSource};
use diffusion_unet::{NoisyClassifier, NoisyClassifierConfig};
use rand::RngExt;

use crate::recipe::classes_of;
use crate::{
    AdamW, AdamWConfig, ConfigError, Ema, EmaConfig, Gradients, LrDecay, LrSchedule, TrainError,
};

/// How a classifier is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierConfig {
    /// Width of the network's first level, a multiple of 8.
    pub base_channels: usize,
    /// Pictures in an update, at least 1.
    pub batch_size: usize,
    /// Mirror pictures, left to right, with probability ½.
    pub flip: bool,
    /// Updates, at most.
    pub steps: Option<u64>,
    /// Minutes, at most; the learning rate is planned to end with whichever of the two ends first.
    pub max_minutes: Option<f64>,
    /// The base learning rate, above 0.
    pub lr: f64,
    /// The seed of weights, order, noise and noise levels.
    pub seed: u64,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            base_channels: 32,
            batch_size: 128,
            flip: false,
            steps: None,
            max_minutes: Some(2.0),
            lr: 2e-3,
            seed: 0,
        }
    }
}

/// Few pictures are learnt by heart otherwise.
const WEIGHT_DECAY: f64 = 0.05;
const LR_SCHEDULE: LrSchedule = LrSchedule { warmup_steps: 0, decay: LrDecay::Cosine };
/// The share of the training in which the rate rises to its base value.
const WARMUP: f64 = 0.05;
/// The share of the base rate that even the first update has.
const LEAST: f64 = 0.02;
const EMA_DECAY: f64 = 0.995;
/// Pictures at once, where nothing is learnt.
const BATCH: usize = 256;

/// Where a training of a classifier is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierStep {
    /// Updates made.
    pub step: u64,
    /// How much of the training is done, in \[0, 1\].
    pub progress: f64,
    /// The cross entropy of the last batch, in nats.
    pub loss: f64,
}

/// Trains a classifier to tell the classes of `dataset` apart at all noise levels: the angle arctan(σ) is uniform in \[0, π/2).
/// Pictures without a class are passed over. `observer` is told of each update; if it breaks off, the training ends early with what
/// was learnt so far.
///
/// # Errors
/// Pictures of fewer than two classes; a configuration without an end; a learning rate at which the loss is no longer a number.
pub fn train_classifier(
    config: &ClassifierConfig,
    dataset: &ImageDataset,
    device: &Device,
    observer: &mut dyn FnMut(&ClassifierStep) -> ControlFlow<()>,
) -> Result<LoadedClassifier, TrainError> {
    let dataset = &dataset.labelled()?;
    let classes = classes_of(dataset);
    let seen = classes.iter().filter(|class| class.pictures > 0).count();
    if seen < 2 {
        let expected = "a classifier needs two or more, by folders or labels";
        return Err(refuse("the number of classes", seen.to_string(), expected));
    }
    if config.steps.is_none() && config.max_minutes.is_none() {
        return Err(refuse(
            "the length",
            "none".to_owned(),
            "a number of steps or of minutes is wanted",
        ));
    }
    let network_config = NoisyClassifierConfig {
        in_channels: dataset.image_shape()[0],
        base_channels: config.base_channels,
        classes: classes.len(),
    };
    let build = |vb: candle_nn::VarBuilder<'_>| NoisyClassifier::new(&network_config, vb);
    let (network, parameters) = Parameters::initialise(config.seed, device, build)
        .map_err(|e| refuse("the classifier", config.base_channels.to_string(), &e.to_string()))?;
    let optimizer_config =
        AdamWConfig { lr: config.lr, weight_decay: WEIGHT_DECAY, ..AdamWConfig::default() };
    let mut optimizer = AdamW::new(optimizer_config, &parameters)?;
    let ema = Ema::new(EmaConfig { decay: EMA_DECAY, ..EmaConfig::default() }, &parameters)?;
    let loader =
        LoaderConfig { flip: config.flip, ..LoaderConfig::new(config.batch_size, config.seed) };
    let mut loader = Loader::new(dataset, loader)?;
    let source = NoiseSource::new(config.seed);
    let start = Instant::now();
    let (mut step, mut progress) = (0, 0.0);
    while progress < 1.0 {
        let lr = LR_SCHEDULE.lr(config.lr, step, progress) * (progress / WARMUP).clamp(LEAST, 1.0);
        let batch = loader.next_batch(device)?;
        let loss = in_pool(|| cross_entropy(&network, &batch.images, &batch.labels, source, step))?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            let expected = "the loss is no longer a number with it; try a smaller one";
            return Err(refuse("the learning rate", config.lr.to_string(), expected));
        }
        let mut gradients = Gradients::default();
        gradients.accumulate(&parameters, in_pool(|| loss.backward())?)?;
        optimizer.update(&parameters, &gradients, lr, Some(&ema))?;
        step += 1;
        let by_steps = config.steps.map_or(0.0, |steps| step as f64 / steps as f64);
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        let by_clock = config.max_minutes.map_or(0.0, |most| (minutes / most).min(1.0));
        progress = by_steps.max(by_clock);
        if observer(&ClassifierStep { step, progress, loss: value }).is_break() {
            break;
        }
    }
    let description = ClassifierDescription {
        network: network_config,
        classes,
        image_shape: dataset.image_shape(),
        step,
    };
    Ok(LoadedClassifier::new(
        description,
        ema.tensors(),
        Path::new("the trained classifier"),
        device,
    )?)
}

/// The share of `pictures`, which all have a class, that `classifier` reads correctly with noise of σ on them.
///
/// # Errors
/// Pictures of another shape.
pub fn classifier_accuracy(
    classifier: &LoadedClassifier,
    pictures: &ImageDataset,
    sigma: f64,
    device: &Device,
) -> Result<f64, TrainError> {
    let level = NoiseLevel::variance_exploding(0.0, sigma);
    let mut right = 0;
    for first in (0..pictures.len()).step_by(BATCH) {
        let chosen: Vec<usize> = (first..pictures.len().min(first + BATCH)).collect();
        let x0 = pictures.images(&chosen, device)?;
        let (indices, shape) =
            (first as u64..(first + chosen.len()) as u64, pictures.image_shape());
        let noise = NoiseSource::new(0).normal(Domain::Validation, 0, indices, &shape, device)?;
        let levels = vec![level; chosen.len()];
        let x_t = Levels::new(&levels, &x0)?.add_noise(&x0, &noise)?;
        let told = classifier.network.forward(&x_t, &levels)?.argmax(1)?.to_vec1::<u32>()?;
        right +=
            chosen.iter().zip(told).filter(|(i, told)| pictures.label(**i) == Some(*told)).count();
    }
    Ok(right as f64 / pictures.len() as f64)
}

fn refuse(field: &'static str, value: String, expected: &str) -> TrainError {
    ConfigError::Field { field, value, expected: expected.to_owned() }.into()
}

/// The mean cross entropy of `images` (N, C, H, W), which all have a class, each at a noise level of its own.
fn cross_entropy(
    network: &NoisyClassifier,
    images: &Tensor,
    labels: &[Option<u32>],
    source: NoiseSource,
    step: u64,
) -> candle_core::Result<Tensor> {
    let (n, channels, height, width) = images.dims4()?;
    // One angle in each n-th part of the quarter turn, so that every batch sees all of it.
    let level = |i: usize| {
        let within: f64 = source.rng(Domain::Timestep, step, i as u64).random();
        let angle = FRAC_PI_2 * (i as f64 + within) / n as f64;
        NoiseLevel { timestep: 0.0, signal: angle.cos(), noise: angle.sin() }
    };
    let levels: Vec<NoiseLevel> = (0..n).map(level).collect();
    let noise = source.normal(
        Domain::Training,
        step,
        0..n as u64,
        &[channels, height, width],
        images.device(),
    )?;
    let x_t = Levels::new(&levels, images)?.add_noise(images, &noise)?;
    let logits = network.forward(&x_t, &levels)?;
    log_likelihood(&logits, labels)?.mean_all()?.neg()
}
