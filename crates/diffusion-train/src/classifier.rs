//! Training a classifier of noisy images, to guide samplings by.

use std::collections::{BTreeMap, HashMap};
use std::f64::consts::FRAC_PI_2;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, Loader, LoaderConfig};
use diffusion_kernels::in_pool;
use diffusion_process::{Domain, Levels, NoiseLevel, NoiseSource, log_likelihood};
use diffusion_unet::{NoisyClassifier, NoisyClassifierConfig, Parameters};
use rand::RngExt;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::checkpoint::write_atomically;
use crate::config::ConfigError;
use crate::{AdamW, AdamWConfig, Ema, EmaConfig, Gradients, LrDecay, LrSchedule, ModelClass, TrainError};

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

/// What a classifier's file says besides the weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierDescription {
    /// The network.
    pub network: NoisyClassifierConfig,
    /// The classes in the order of its logits.
    pub classes: Vec<ModelClass>,
    /// [C, H, W] of the images.
    pub image_shape: [usize; 3],
    /// Updates it was trained for.
    pub step: u64,
}

/// A classifier of noisy images, ready for use.
pub struct LoadedClassifier {
    /// What it is.
    pub description: ClassifierDescription,
    /// The network, with the averaged weights.
    pub network: NoisyClassifier,
    weights: BTreeMap<String, Tensor>,
}

/// What the description is called in the metadata of a file.
const DESCRIPTION: &str = "noisy_classifier";

impl LoadedClassifier {
    /// Trains a classifier to tell the classes of `dataset` apart at all noise levels: the angle arctan(σ) is uniform in \[0, π/2).
    /// Pictures without a class are passed over. `observer` is told of each update; if it breaks off, the training ends early with what
    /// was learnt so far.
    ///
    /// # Errors
    /// Pictures of fewer than two classes; a configuration without an end; a learning rate at which the loss is no longer a number.
    pub fn train(
        config: &ClassifierConfig,
        dataset: &ImageDataset,
        device: &Device,
        observer: &mut dyn FnMut(&ClassifierStep) -> ControlFlow<()>,
    ) -> Result<Self, TrainError> {
        let dataset = &dataset.labelled()?;
        let classes = ModelClass::of(dataset);
        let seen = classes.iter().filter(|class| class.pictures > 0).count();
        if seen < 2 {
            let expected = "a classifier needs two or more, by folders or labels";
            return Err(refuse("the number of classes", seen.to_string(), expected));
        }
        if config.steps.is_none() && config.max_minutes.is_none() {
            return Err(refuse("the length", "none".to_owned(), "a number of steps or of minutes is wanted"));
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
        let loader = LoaderConfig { flip: config.flip, ..LoaderConfig::new(config.batch_size, config.seed) };
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
        Self::assembled(description, ema.tensors(), Path::new("the trained classifier"), device)
    }

    /// Writes it to one safetensors file at `path`.
    ///
    /// # Errors
    /// What the system refuses; then nothing is left under that name, or what was there before.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let unusable = |problem: String| TrainError::unusable(path, problem);
        let description = serde_json::to_string(&self.description).map_err(|e| unusable(e.to_string()))?;
        let metadata = HashMap::from([(DESCRIPTION.to_owned(), description)]);
        let bytes =
            safetensors::serialize(&self.weights, Some(metadata)).map_err(|e| unusable(e.to_string()))?;
        write_atomically(path, &bytes)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// A file that [`write`](Self::write) did not write, or that is damaged.
    pub fn open(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let unusable = |problem: String| TrainError::unusable(path, problem);
        let bytes = fs::read(path).map_err(TrainError::io(path))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| unusable(format!("not a whole safetensors file: {e}")))?;
        let description = metadata.metadata().as_ref().and_then(|texts| texts.get(DESCRIPTION));
        let description = description.ok_or_else(|| {
            unusable(
                "this is no classifier of noisy images; `diffusion train-classifier` makes one".to_owned(),
            )
        })?;
        let description: ClassifierDescription = serde_json::from_str(description)
            .map_err(|e| unusable(format!("not a classifier's description: {e}")))?;
        let [named, known] = [description.classes.len(), description.network.classes];
        if named != known || description.network.in_channels != description.image_shape[0] {
            return Err(unusable("its description contradicts itself".to_owned()));
        }
        let tensors = candle_core::safetensors::load_buffer(&bytes, device)?.into_iter().collect();
        Self::assembled(description, tensors, path, device)
    }

    fn assembled(
        description: ClassifierDescription,
        weights: BTreeMap<String, Tensor>,
        path: &Path,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let build = |vb: candle_nn::VarBuilder<'_>| NoisyClassifier::new(&description.network, vb);
        let network = diffusion_unet::load_frozen(weights.clone(), device, build)
            .map_err(|source| TrainError::Parameters { path: path.to_owned(), source })?;
        Ok(Self { description, network, weights })
    }

    /// The share of `pictures`, which all have a class, that is told rightly with noise of σ on them.
    ///
    /// # Errors
    /// Pictures of another shape.
    pub fn accuracy(&self, pictures: &ImageDataset, sigma: f64, device: &Device) -> Result<f64, TrainError> {
        let level = NoiseLevel::variance_exploding(0.0, sigma);
        let mut right = 0;
        for first in (0..pictures.len()).step_by(BATCH) {
            let chosen: Vec<usize> = (first..pictures.len().min(first + BATCH)).collect();
            let x0 = pictures.images(&chosen, device)?;
            let (indices, shape) = (first as u64..(first + chosen.len()) as u64, pictures.image_shape());
            let noise = NoiseSource::new(0).normal(Domain::Validation, 0, indices, &shape, device)?;
            let levels = vec![level; chosen.len()];
            let x_t = Levels::new(&levels, &x0)?.add_noise(&x0, &noise)?;
            let told = self.network.forward(&x_t, &levels)?.argmax(1)?.to_vec1::<u32>()?;
            right += chosen.iter().zip(told).filter(|(i, told)| pictures.label(**i) == Some(*told)).count();
        }
        Ok(right as f64 / pictures.len() as f64)
    }
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
    let noise =
        source.normal(Domain::Training, step, 0..n as u64, &[channels, height, width], images.device())?;
    let x_t = Levels::new(&levels, images)?.add_noise(images, &noise)?;
    let logits = network.forward(&x_t, &levels)?;
    log_likelihood(&logits, labels)?.mean_all()?.neg()
}
