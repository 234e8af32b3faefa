//! A network to measure, with its trainers and its weights without gradients.

use std::collections::HashMap;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use diffusion_assets::{MNIST_IMAGES, MNIST_LABELS};
use diffusion_data::{ImageDataset, mnist};
use diffusion_kernels::{Precision, autocast};
use diffusion_nn::load_frozen;
use diffusion_process::{Denoiser, Network, NetworkDenoiser, Threshold, Thresholded};
use diffusion_sample::{
    ClassifierFree, Guidance, SampleRequest, SamplerKind, SamplerOptions, sample,
};
use diffusion_schedule::{SamplingPlan, SigmaSpacing, TimestepSpacing};
use diffusion_train::{Conditional, TrainConfig, Trainer, TrainingPrecision};
use diffusion_unet::{NetworkConfig, UNet2DConfig};
use serde::Deserialize;

use crate::milliseconds;

/// The networks that `pytorch.py` builds from diffusers' `UNet2DModel`, by name.
const NETWORKS: &str = include_str!("../networks.json");
/// The network that a job without a name measures: that of the `mnist` preset, without classes and
/// with AdamW for all parameters.
pub(crate) const DEFAULT: &str = "mnist";
/// The `mnist` preset itself: with classes, Muon and guidance.
const RECIPE: &str = "recipe";
/// A U-Net of three levels with this prefix, width and side: `unet2d-64-32`.
const SCALED: &str = "unet2d";
/// The scale of the recipe's guidance.
const GUIDANCE: f64 = 1.1;

#[derive(Deserialize)]
struct Listed {
    /// Height and width of the images, in pixels.
    side: usize,
    network: UNet2DConfig,
}

/// A network. Trainers and weights are created at their first use.
pub(crate) struct Measured {
    dataset: ImageDataset,
    config: TrainConfig,
    precision: Precision,
    device: Device,
    /// The number of classes; 0 for an unconditional network.
    classes: u32,
    trainers: HashMap<usize, Trainer>,
    frozen: Option<Box<dyn Network + Send + Sync>>,
}

impl Measured {
    /// The network of this name: [`DEFAULT`], [`RECIPE`], one of `networks.json` or one of
    /// [`SCALED`]. The first two have the shipped digits as data, the others random pictures.
    pub(crate) fn named(name: &str, precision: Precision, device: &Device) -> Result<Self> {
        let mut config = TrainConfig::preset("mnist")?;
        if precision == Precision::Bf16 {
            config.precision = TrainingPrecision::Bf16;
        }
        let mut classes = 0;
        let dataset = if name == RECIPE {
            classes = 10;
            mnist::from_bytes(MNIST_IMAGES, MNIST_LABELS)?
        } else {
            // pytorch.py uses AdamW for all parameters.
            config.optimizer.muon = false;
            config.conditional = Conditional::Never;
            if name == DEFAULT {
                mnist::from_bytes(MNIST_IMAGES, MNIST_LABELS)?
            } else {
                let Listed { side, network } = listed(name)?;
                let shape = [network.in_channels, side, side];
                let bytes = 64 * shape.iter().product::<usize>();
                config.network = NetworkConfig::Unet2d(network);
                ImageDataset::new((0..bytes).map(|i| ((i * i) >> 7) as u8).collect(), None, shape)?
            }
        };
        let device = device.clone();
        let trainers = HashMap::new();
        Ok(Self { dataset, config, precision, device, classes, trainers, frozen: None })
    }

    /// A complete step: batch, noise, forward, backward, clipping, AdamW, EMA.
    pub(crate) fn train(&mut self, batch: usize) -> Result<f64> {
        if !self.trainers.contains_key(&batch) {
            let config = TrainConfig { batch_size: batch, ..self.config.clone() };
            self.trainers.insert(batch, config.trainer(&self.dataset, &self.device)?);
        }
        let trainer = self.trainers.get_mut(&batch).context("no trainer for the batch size")?;
        let begin = Instant::now();
        trainer.step()?;
        self.device.synchronize()?;
        Ok(milliseconds(begin))
    }

    /// The mean loss of the last quarter of `steps` training steps from the first weights.
    pub(crate) fn loss(&mut self, batch: usize, steps: usize) -> Result<f64> {
        let config = TrainConfig { batch_size: batch, ..self.config.clone() };
        let mut trainer = config.trainer(&self.dataset, &self.device)?;
        let losses = (0..steps).map(|_| Ok(trainer.step()?.loss)).collect::<Result<Vec<f64>>>()?;
        let last = &losses[steps - steps.div_ceil(4)..];
        Ok(last.iter().sum::<f64>() / last.len() as f64)
    }

    /// The number of tensors that a training step creates.
    pub(crate) fn tensors(&mut self, batch: usize) -> Result<f64> {
        // On a GPU, a batch is computed at once.
        let config = TrainConfig { batch_size: batch, parallel_parts: 1, ..self.config.clone() };
        let mut trainer = config.trainer(&self.dataset, &self.device)?;
        trainer.step()?;
        let before = newest_tensor()?;
        trainer.step()?;
        Ok(newest_tensor()? - before - 1.0)
    }

    /// The network with initial weights, for jobs without gradients.
    fn network(&mut self) -> Result<&(dyn Network + Send + Sync)> {
        if self.frozen.is_none() {
            let trainer = self.config.trainer(&self.dataset, &self.device)?;
            let tensors = trainer.parameters().tensors();
            let network = &trainer.description().network;
            self.frozen = Some(load_frozen(tensors, &self.device, |vb| network.build(vb))?);
        }
        self.frozen.as_deref().context("no network")
    }

    /// The network without gradients.
    pub(crate) fn forward(&mut self, batch: usize) -> Result<f64> {
        let [c, h, w] = self.dataset.image_shape();
        let (precision, device) = (self.precision, self.device.clone());
        let x = Tensor::randn(0f32, 1.0, (batch, c, h, w), &device)?;
        let t = Tensor::full(100f32, batch, &device)?;
        let network = self.network()?;
        device.synchronize()?;
        let begin = Instant::now();
        black_box(autocast(precision, || network.forward(&x, &t))?);
        device.synchronize()?;
        Ok(milliseconds(begin))
    }

    /// `num` images from noise in `steps` steps; with guidance if the network has classes.
    pub(crate) fn sample(&mut self, sampler: SamplerKind, num: usize, steps: usize) -> Result<f64> {
        let schedule = self.config.schedule.build()?;
        let plan =
            SamplingPlan::new(&schedule, steps, TimestepSpacing::Leading, SigmaSpacing::Timesteps)?;
        let prediction_type = self.config.prediction_type;
        let image_shape = self.dataset.image_shape();
        let (precision, classes, device) = (self.precision, self.classes, self.device.clone());
        let network = NetworkDenoiser::new(self.network()?, prediction_type);
        let guided;
        let denoiser: &dyn Denoiser = if classes == 0 {
            &network
        } else {
            let classes = (0..num as u32).map(|i| Some(i % classes)).collect();
            guided = ClassifierFree::new(&network, classes, Guidance::new(GUIDANCE));
            &guided
        };
        let denoiser = Thresholded::new(denoiser, Threshold::Clip { range: 1.0 });
        let mut sampler = sampler.build(&SamplerOptions::default());
        let request = SampleRequest {
            seed: 0,
            indices: (0..num as u64).collect(),
            image_shape,
            device: &device,
        };
        let begin = Instant::now();
        let images = autocast(precision, || {
            sample(&denoiser, sampler.as_mut(), &plan, &request, &mut |_| ControlFlow::Continue(()))
        })?;
        black_box(images);
        device.synchronize()?;
        Ok(milliseconds(begin))
    }
}

/// The number of a new tensor. candle counts its tensors, and shows the number in debug output.
fn newest_tensor() -> Result<f64> {
    let id = format!("{:?}", Tensor::zeros(1, DType::F32, &Device::Cpu)?.id());
    let digits: String = id.chars().filter(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("expected a number in `{id}`"))
}

/// The network of this name of `networks.json`, or one of [`SCALED`].
fn listed(name: &str) -> Result<Listed> {
    let mut networks: HashMap<String, Listed> = serde_json::from_str(NETWORKS)?;
    let (name, scale) = match name.strip_prefix(SCALED).and_then(|rest| rest.strip_prefix('-')) {
        Some(scale) => (SCALED, Some(scale)),
        None => (name, None),
    };
    let known = networks.keys().cloned().collect::<Vec<_>>().join(", ");
    let mut listed = networks.remove(name).with_context(|| {
        format!("unknown network `{name}`; known: {DEFAULT}, {RECIPE}, {known}")
    })?;
    if let Some(scale) = scale {
        let (width, side) = scale
            .split_once('-')
            .and_then(|(width, side)| Some((width.parse::<usize>().ok()?, side.parse().ok()?)))
            .with_context(|| format!("expected `{SCALED}-WIDTH-SIDE`, got `{SCALED}-{scale}`"))?;
        listed.side = side;
        listed.network.block_out_channels =
            listed.network.block_out_channels.iter().map(|factor| factor * width).collect();
    }
    Ok(listed)
}
