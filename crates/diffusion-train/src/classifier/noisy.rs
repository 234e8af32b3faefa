//! Training of a classifier of noisy images, for classifier guidance.

use std::f64::consts::FRAC_PI_2;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_data::{Batch, ImageDataset, LoaderConfig};
use diffusion_model::{ClassifierDescription, LoadedClassifier};
use diffusion_nn::Parameters;
use diffusion_process::{Levels, NoiseLevel, log_likelihood};
use diffusion_random::{Domain, NoiseSource};
use diffusion_unet::{NoisyClassifier, NoisyClassifierConfig};
use rand::RngExt;

use super::{ClassifierStep, EVALUATION_BATCH, Training, field_error};
use crate::TrainError;
use crate::recipe::classes_of;

/// The configuration of a classifier's training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierConfig {
    /// The width of the network's first level, a multiple of 8. Default: 32.
    pub base_channels: usize,
    /// Pictures per update, at least 1. Default: 128.
    pub batch_size: usize,
    /// Mirror pictures, left to right, with probability ½. Default: false.
    pub flip: bool,
    /// The largest number of updates. Default: no limit.
    pub steps: Option<u64>,
    /// The time limit in minutes. Default: 2. The learning rate decays over the limit that is
    /// reached first.
    pub max_minutes: Option<f64>,
    /// The base learning rate, above 0. Default: 0.002.
    pub lr: f64,
    /// The seed of weights, picture order, noise and noise levels. Default: 0.
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

/// Trains a classifier of the classes of `dataset` at all noise levels.
///
/// The angle arctan(σ) is uniform in \[0, π/2). Pictures without a class are skipped. `observer` is
/// called after each update; if it breaks, the training ends early and the result is the classifier
/// trained so far.
///
/// # Errors
/// If the pictures have fewer than two classes; if neither `steps` nor `max_minutes` is set; if
/// `base_channels` is invalid; if the loss is not finite.
pub fn train_classifier(
    config: &ClassifierConfig,
    dataset: &ImageDataset,
    device: &Device,
    observer: &mut dyn FnMut(&ClassifierStep) -> ControlFlow<()>,
) -> Result<LoadedClassifier, TrainError> {
    let dataset = &dataset.labelled()?;
    let classes = classes_of(dataset);
    let present = classes.iter().filter(|class| class.pictures > 0).count();
    if present < 2 {
        let expected = "a classifier needs two or more, from folders or labels";
        return Err(field_error("the number of classes", present.to_string(), expected));
    }
    let training = Training {
        dataset,
        loader: LoaderConfig {
            flip: config.flip,
            ..LoaderConfig::new(config.batch_size, config.seed)
        },
        steps: config.steps,
        max_minutes: config.max_minutes,
        lr: config.lr,
        muon: false,
        device,
    };
    training.check_length()?;
    let network_config = NoisyClassifierConfig {
        in_channels: dataset.image_shape()[0],
        base_channels: config.base_channels,
        classes: classes.len(),
    };
    let build = |vb: candle_nn::VarBuilder<'_>| NoisyClassifier::new(&network_config, vb);
    let (network, parameters) =
        Parameters::initialise(config.seed, device, build).map_err(|e| {
            field_error("base_channels", config.base_channels.to_string(), &e.to_string())
        })?;
    let source = NoiseSource::new(config.seed);
    let loss =
        |batch: &Batch, step| cross_entropy(&network, &batch.images, &batch.labels, source, step);
    let (ema, step) = training.run(&parameters, loss, observer)?;
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

/// The accuracy of `classifier` on `pictures` with noise of standard deviation `sigma`, in \[0,
/// 1\].
///
/// A picture without a class counts as an error.
///
/// # Errors
/// If the pictures have another shape than those of the training.
pub fn classifier_accuracy(
    classifier: &LoadedClassifier,
    pictures: &ImageDataset,
    sigma: f64,
    device: &Device,
) -> Result<f64, TrainError> {
    let level = NoiseLevel::variance_exploding(0.0, sigma);
    let mut correct = 0;
    for first in (0..pictures.len()).step_by(EVALUATION_BATCH) {
        let chosen: Vec<usize> = (first..pictures.len().min(first + EVALUATION_BATCH)).collect();
        let x0 = pictures.images(&chosen, device)?;
        let (indices, shape) =
            (first as u64..(first + chosen.len()) as u64, pictures.image_shape());
        let noise = NoiseSource::new(0).normal(Domain::Validation, 0, indices, &shape, device)?;
        let levels = vec![level; chosen.len()];
        let x_t = Levels::new(&levels, &x0)?.add_noise(&x0, &noise)?;
        let predicted = classifier.network.forward(&x_t, &levels)?.argmax(1)?.to_vec1::<u32>()?;
        correct += chosen
            .iter()
            .zip(predicted)
            .filter(|(i, predicted)| pictures.label(**i) == Some(*predicted))
            .count();
    }
    Ok(correct as f64 / pictures.len() as f64)
}

/// The mean cross entropy of `images` (N, C, H, W), each at its own noise level. All must have a
/// class.
fn cross_entropy(
    network: &NoisyClassifier,
    images: &Tensor,
    labels: &[Option<u32>],
    source: NoiseSource,
    step: u64,
) -> candle_core::Result<Tensor> {
    let (n, channels, height, width) = images.dims4()?;
    // One angle in each n-th part of [0, π/2), so that every batch covers the whole range.
    let level = |i: usize| {
        let offset: f64 = source.rng(Domain::Timestep, step, i as u64).random();
        let angle = FRAC_PI_2 * (i as f64 + offset) / n as f64;
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
