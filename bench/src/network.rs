//! A network to measure, with its trainers and its weights without gradients.

use std::collections::HashMap;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use diffusion_assets::{MNIST_IMAGES, MNIST_LABELS};
use diffusion_data::{ImageDataset, mnist};
use diffusion_kernels::{Precision, autocast};
use diffusion_nn::load_frozen;
use diffusion_process::{Network, NetworkDenoiser, Threshold, Thresholded};
use diffusion_sample::{Ddim, SampleRequest, sample};
use diffusion_schedule::{SamplingPlan, SigmaSpacing, TimestepSpacing};
use diffusion_train::{TrainConfig, Trainer, TrainingPrecision};
use diffusion_unet::{NetworkConfig, UNet2DConfig};
use serde::Deserialize;

use crate::milliseconds;

/// The networks that `pytorch.py` builds from diffusers' `UNet2DModel`, by name.
const NETWORKS: &str = include_str!("../networks.json");
/// The network that a job without a name measures.
pub(crate) const DEFAULT: &str = "mnist";

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
    trainers: HashMap<usize, Trainer>,
    frozen: Option<Box<dyn Network + Send + Sync>>,
}

impl Measured {
    /// The network of this name: that of the `mnist` preset with the shipped digits, or one of
    /// `networks.json` with random pictures.
    pub(crate) fn named(name: &str, precision: Precision) -> Result<Self> {
        let mut config = TrainConfig::preset("mnist")?;
        // pytorch.py uses AdamW for all parameters.
        config.optimizer.muon = false;
        if precision == Precision::Bf16 {
            config.precision = TrainingPrecision::Bf16;
        }
        let dataset = if name == DEFAULT {
            mnist::from_bytes(MNIST_IMAGES, MNIST_LABELS)?
        } else {
            let mut networks: HashMap<String, Listed> = serde_json::from_str(NETWORKS)?;
            let known = networks.keys().cloned().collect::<Vec<_>>().join(", ");
            let Listed { side, network } = networks
                .remove(name)
                .with_context(|| format!("unknown network `{name}`; known: {DEFAULT}, {known}"))?;
            let shape = [network.in_channels, side, side];
            let bytes = 64 * shape.iter().product::<usize>();
            config.network = NetworkConfig::Unet2d(network);
            ImageDataset::new((0..bytes).map(|i| ((i * i) >> 7) as u8).collect(), None, shape)?
        };
        Ok(Self { dataset, config, precision, trainers: HashMap::new(), frozen: None })
    }

    /// A complete step: batch, noise, forward, backward, clipping, AdamW, EMA.
    pub(crate) fn train(&mut self, batch: usize) -> Result<f64> {
        if !self.trainers.contains_key(&batch) {
            let config = TrainConfig { batch_size: batch, ..self.config.clone() };
            self.trainers.insert(batch, config.trainer(&self.dataset, &Device::Cpu)?);
        }
        let trainer = self.trainers.get_mut(&batch).context("no trainer for the batch size")?;
        let begin = Instant::now();
        trainer.step()?;
        Ok(milliseconds(begin))
    }

    /// The network with initial weights, for jobs without gradients.
    fn network(&mut self) -> Result<&(dyn Network + Send + Sync)> {
        if self.frozen.is_none() {
            let trainer = self.config.trainer(&self.dataset, &Device::Cpu)?;
            let tensors = trainer.parameters().tensors();
            let network = &trainer.description().network;
            self.frozen = Some(load_frozen(tensors, &Device::Cpu, |vb| network.build(vb))?);
        }
        self.frozen.as_deref().context("no network")
    }

    /// The network without gradients.
    pub(crate) fn forward(&mut self, batch: usize) -> Result<f64> {
        let [c, h, w] = self.dataset.image_shape();
        let x = Tensor::randn(0f32, 1.0, (batch, c, h, w), &Device::Cpu)?;
        let t = Tensor::full(100f32, batch, &Device::Cpu)?;
        let precision = self.precision;
        let network = self.network()?;
        let begin = Instant::now();
        black_box(autocast(precision, || network.forward(&x, &t))?);
        Ok(milliseconds(begin))
    }

    /// `num` images from noise in `steps` steps of DDIM.
    pub(crate) fn sample(&mut self, num: usize, steps: usize) -> Result<f64> {
        let schedule = self.config.schedule.build()?;
        let plan =
            SamplingPlan::new(&schedule, steps, TimestepSpacing::Leading, SigmaSpacing::Timesteps)?;
        let prediction_type = self.config.prediction_type;
        let image_shape = self.dataset.image_shape();
        let precision = self.precision;
        let network = self.network()?;
        let denoiser = NetworkDenoiser::new(network, prediction_type);
        let denoiser = Thresholded::new(&denoiser, Threshold::Clip { range: 1.0 });
        let request = SampleRequest {
            seed: 0,
            indices: (0..num as u64).collect(),
            image_shape,
            device: &Device::Cpu,
        };
        let begin = Instant::now();
        let images = autocast(precision, || {
            sample(&denoiser, &mut Ddim::default(), &plan, &request, &mut |_| {
                ControlFlow::Continue(())
            })
        })?;
        black_box(images);
        Ok(milliseconds(begin))
    }
}
