//! Our side of `cargo xtask bench`: does one job at a time and says how long it took.
//!
//! Reads one job a line, does it once and answers with one number, of milliseconds if nothing else is said:
//!
//! - `train BATCH`: a whole step, from the loader to the moving average
//! - `forward BATCH`: the network without gradients
//! - `sample NUM STEPS`: images from noise
//! - `sgemm`: GFLOP/s of candle's product of two matrices of 1024 × 1024
//! - `memory`: the peak of the resident set in KiB, 0 where that is not known
//! - `profile TIMES JOB`: a job on average, and on standard error where its time goes
//!
//! The network is the `mnist` preset's. `RAYON_NUM_THREADS` and `DIFFUSION_KERNELS` are obeyed.

mod loader;
mod profile;

use std::collections::HashMap;
use std::hint::black_box;
use std::io::BufRead;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, mnist};
use diffusion_nn::load_frozen;
use diffusion_process::{Network, NetworkDenoiser, Threshold, Thresholded};
use diffusion_sample::{Ddim, SampleRequest, sample};
use diffusion_schedule::{SamplingPlan, SigmaSpacing, TimestepSpacing};
use diffusion_train::{TrainConfig, Trainer};

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
    trainers: HashMap<usize, Trainer>,
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
            Some(&"sgemm") => sgemm(),
            Some(&"memory") => Ok(peak_kib()),
            Some(&"profile") => self.profile(number(1)?, &words[2..].join(" ")),
            _ => bail!("`{job}` is not a job: train, forward, sample, sgemm, memory, profile"),
        }
    }

    /// A whole step: batch, noise, forward, backward, clipping, AdamW, EMA.
    fn train(&mut self, batch: usize) -> Result<f64> {
        if !self.trainers.contains_key(&batch) {
            let config = TrainConfig { batch_size: batch, ..self.config.clone() };
            self.trainers.insert(batch, config.trainer(self.dataset, &Device::Cpu)?);
        }
        let trainer = self.trainers.get_mut(&batch).context("a trainer for each batch size")?;
        let begin = Instant::now();
        trainer.step()?;
        Ok(milliseconds(begin))
    }

    fn profile(&mut self, times: usize, job: &str) -> Result<f64> {
        self.run(job)?;
        let (total, shares) = profile::profile(|| {
            (0..times).try_fold(0.0, |total, _| Ok::<_, anyhow::Error>(total + self.run(job)?))
        });
        let each = total? / times as f64;
        eprintln!("{:>8} {:>6} {:>6}  {job}: {each:.2} ms", "ms", "share", "calls");
        for (label, profile::Share { calls, time }) in shares {
            let (time, calls) =
                (time.as_secs_f64() * 1e3 / times as f64, calls as f64 / times as f64);
            eprintln!("{time:8.3} {:5.1}% {calls:6}  {label}", 100.0 * time / each);
        }
        Ok(each)
    }

    fn network(&mut self) -> Result<&(dyn Network + Send + Sync)> {
        if self.frozen.is_none() {
            let trainer = self.config.trainer(self.dataset, &Device::Cpu)?;
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
        let schedule = self.config.schedule.build()?;
        let plan =
            SamplingPlan::new(&schedule, steps, TimestepSpacing::Leading, SigmaSpacing::Timesteps)?;
        let prediction_type = self.config.prediction_type;
        let network = self.network()?;
        let denoiser = NetworkDenoiser::new(network, prediction_type);
        let denoiser = Thresholded::new(&denoiser, Threshold::Clip { range: 1.0 });
        let request = SampleRequest {
            seed: 0,
            indices: (0..num as u64).collect(),
            image_shape: SHAPE,
            device: &Device::Cpu,
        };
        let begin = Instant::now();
        let images = sample(&denoiser, &mut Ddim::default(), &plan, &request, &mut |_| {
            ControlFlow::Continue(())
        })?;
        black_box(images);
        Ok(milliseconds(begin))
    }
}

/// The machine's limit, so far as candle's product reaches it.
fn sgemm() -> Result<f64> {
    const N: usize = 1024;
    const TIMES: usize = 8;
    let factor = || Tensor::randn(0f32, 1.0, (N, N), &Device::Cpu);
    let (a, b) = (factor()?, factor()?);
    black_box(a.matmul(&b)?);
    let begin = Instant::now();
    for _ in 0..TIMES {
        black_box(a.matmul(&b)?);
    }
    Ok((TIMES * 2 * N.pow(3)) as f64 / begin.elapsed().as_secs_f64() / 1e9)
}

/// The peak of the resident set, from Linux' /proc.
fn peak_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let [word, folder] = arguments.as_slice()
        && word == "pictures"
    {
        let pictures = loader::Pictures::new(folder.as_ref());
        for line in std::io::stdin().lock().lines() {
            println!("{:.6}", pictures.run(&line?)?);
        }
        return Ok(());
    }
    let dataset = mnist::from_bytes(IMAGES, LABELS)?;
    let mut config = TrainConfig::preset("mnist")?;
    // PyTorch's twin has AdamW for all parameters.
    config.optimizer.muon = false;
    let mut bench = Bench { dataset: &dataset, config, trainers: HashMap::new(), frozen: None };
    for line in std::io::stdin().lock().lines() {
        println!("{:.6}", bench.run(&line?)?);
    }
    Ok(())
}
