//! Our side of `cargo xtask bench`: does one job at a time and says how long it took.
//!
//! Reads one job a line, `train BATCH`, `forward BATCH`, `sample NUM STEPS` or `memory`, does it once and answers
//! with one number: milliseconds, or for `memory` the peak of the resident set in KiB (0 where that is not known).
//! The network is the `mnist` preset's. `RAYON_NUM_THREADS` and `DIFFUSION_KERNELS` are obeyed.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::BufRead;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, mnist};
use diffusion_process::{Network, NetworkDenoiser};
use diffusion_sample::{Ddpm, SampleRequest, sample};
use diffusion_schedule::TimestepSpacing;
use diffusion_train::{TrainConfig, Trainer};
use diffusion_unet::load_frozen;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IMAGES: &[u8] = include_bytes!("../../assets/mnist/train-10k-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../assets/mnist/train-10k-labels-idx1-ubyte.gz");
const SHAPE: [usize; 3] = [1, 28, 28];

/// The jobs, each set up when it is first asked for.
struct Bench<'a> {
    dataset: &'a ImageDataset,
    config: TrainConfig,
    trainers: HashMap<usize, Trainer<'a>>,
    frozen: Option<Box<dyn Network + Send + Sync>>,
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

impl Bench<'_> {
    fn run(&mut self, job: &str) -> Result<f64> {
        let words: Vec<&str> = job.split_whitespace().collect();
        let number = |i: usize| -> Result<usize> {
            let word = words.get(i).with_context(|| format!("`{job}` wants another number"))?;
            word.parse().with_context(|| format!("`{word}` in `{job}`"))
        };
        match words.first() {
            Some(&"train") => self.train(number(1)?),
            Some(&"forward") => self.forward(number(1)?),
            Some(&"sample") => self.sample(number(1)?, number(2)?),
            Some(&"memory") => Ok(peak_kib()),
            _ => bail!("`{job}` is not a job: train, forward, sample, memory"),
        }
    }

    /// A whole step: batch, noise, forward, backward, clipping, AdamW, EMA.
    fn train(&mut self, batch: usize) -> Result<f64> {
        if !self.trainers.contains_key(&batch) {
            let config = TrainConfig { batch_size: batch, ..self.config.clone() };
            self.trainers.insert(batch, Trainer::new(&config, self.dataset, &Device::Cpu)?);
        }
        let trainer = self.trainers.get_mut(&batch).context("a trainer for each batch size")?;
        let begin = Instant::now();
        trainer.step()?;
        Ok(milliseconds(begin))
    }

    fn network(&mut self) -> Result<&(dyn Network + Send + Sync)> {
        if self.frozen.is_none() {
            let trainer = Trainer::new(&self.config, self.dataset, &Device::Cpu)?;
            let tensors = trainer.parameters().tensors();
            let network = &trainer.description().network;
            self.frozen = Some(load_frozen(tensors, &Device::Cpu, |vb| network.build(vb))?);
        }
        self.frozen.as_deref().context("a network")
    }

    fn forward(&mut self, batch: usize) -> Result<f64> {
        let [c, h, w] = SHAPE;
        let x = Tensor::randn(0f32, 1.0, (batch, c, h, w), &Device::Cpu)?;
        let t = Tensor::full(100f32, batch, &Device::Cpu)?;
        let network = self.network()?;
        let begin = Instant::now();
        black_box(network.forward(&x, &t)?);
        Ok(milliseconds(begin))
    }

    fn sample(&mut self, num: usize, steps: usize) -> Result<f64> {
        let schedule = self.config.schedule.build()?.respace(steps, TimestepSpacing::Leading)?;
        let prediction_type = self.config.prediction_type;
        let network = self.network()?;
        let denoiser = NetworkDenoiser::new(network, prediction_type);
        let request =
            SampleRequest { seed: 0, indices: 0..num as u64, image_shape: SHAPE, device: &Device::Cpu };
        let begin = Instant::now();
        let images =
            sample(&denoiser, &Ddpm::default(), &schedule, &request, &mut |_| ControlFlow::Continue(()))?;
        black_box(images);
        Ok(milliseconds(begin))
    }
}

/// The peak of the resident set, from Linux' /proc.
fn peak_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

fn main() -> Result<()> {
    let dataset = mnist::from_bytes(IMAGES, LABELS)?;
    let config = TrainConfig::preset("mnist")?;
    let mut bench = Bench { dataset: &dataset, config, trainers: HashMap::new(), frozen: None };
    for line in std::io::stdin().lock().lines() {
        println!("{:.6}", bench.run(&line?)?);
    }
    Ok(())
}
