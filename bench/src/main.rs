//! The worker process of `cargo xtask bench`: runs jobs of this project and measures their time.
//!
//! Reads one job per line from standard input, runs it once and prints one number, in milliseconds
//! unless stated otherwise:
//!
//! - `train BATCH`: a complete training step, from the loader to the moving average
//! - `forward BATCH`: the network without gradients
//! - `sample NUM STEPS`: images from noise
//! - `sgemm`: GFLOP/s of candle's product of two matrices of 1024 × 1024
//! - `memory`: the peak of the resident set in KiB, 0 if unknown
//! - `profile TIMES JOB`: the mean time of a job; prints a profile to standard error
//!
//! With the arguments `pictures FOLDER`, it runs the jobs of the loader benchmark instead.
//!
//! The network is that of the `mnist` preset. `RAYON_NUM_THREADS` sets the number of threads, and
//! `DIFFUSION_KERNELS` the kernels (for example `avx2` or `slow`).
//!
//! This crate does not compare anything: `cargo xtask bench` starts the workers and prints the
//! tables. `benches/kernels.rs` measures single kernels with `cargo bench -p diffusion-bench`.
//!
//! ```sh
//! cargo build --workspace --bin diffusion-bench
//! printf 'train 64\ntrain 64\nmemory\n' | target/debug/diffusion-bench
//! ```

mod loader;
mod profile;

use std::collections::HashMap;
use std::hint::black_box;
use std::io::BufRead;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use diffusion_assets::{MNIST_IMAGES, MNIST_LABELS};
use diffusion_data::{ImageDataset, mnist};
use diffusion_nn::load_frozen;
use diffusion_process::{Network, NetworkDenoiser, Threshold, Thresholded};
use diffusion_sample::{Ddim, SampleRequest, sample};
use diffusion_schedule::{SamplingPlan, SigmaSpacing, TimestepSpacing};
use diffusion_train::{TrainConfig, Trainer};

/// The allocator of the program `diffusion`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SHAPE: [usize; 3] = [1, 28, 28];

/// The state of the jobs. Trainers and the network are created at their first use.
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
            let word = words.get(i).with_context(|| format!("`{job}` needs another number"))?;
            word.parse().with_context(|| format!("expected a number, got `{word}` in `{job}`"))
        };
        match words.first() {
            Some(&"train") => self.train(number(1)?),
            Some(&"forward") => self.forward(number(1)?),
            Some(&"sample") => self.sample(number(1)?, number(2)?),
            Some(&"sgemm") => sgemm(),
            Some(&"memory") => Ok(peak_kib()),
            Some(&"profile") => self.profile(number(1)?, &words[2..].join(" ")),
            _ => {
                bail!("unknown job `{job}`; known: train, forward, sample, sgemm, memory, profile")
            }
        }
    }

    /// A complete step: batch, noise, forward, backward, clipping, AdamW, EMA.
    fn train(&mut self, batch: usize) -> Result<f64> {
        if !self.trainers.contains_key(&batch) {
            let config = TrainConfig { batch_size: batch, ..self.config.clone() };
            self.trainers.insert(batch, config.trainer(self.dataset, &Device::Cpu)?);
        }
        let trainer = self.trainers.get_mut(&batch).context("no trainer for the batch size")?;
        let begin = Instant::now();
        trainer.step()?;
        Ok(milliseconds(begin))
    }

    /// The mean time of a job, after one run to fill the caches.
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

    /// The network with initial weights, for jobs without gradients.
    fn network(&mut self) -> Result<&(dyn Network + Send + Sync)> {
        if self.frozen.is_none() {
            let trainer = self.config.trainer(self.dataset, &Device::Cpu)?;
            let tensors = trainer.parameters().tensors();
            let network = &trainer.description().network;
            self.frozen = Some(load_frozen(tensors, &Device::Cpu, |vb| network.build(vb))?);
        }
        self.frozen.as_deref().context("no network")
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

/// GFLOP/s of candle's matrix product, an estimate of the machine's limit.
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

/// The peak of the resident set in KiB, from Linux's /proc; 0 on other systems.
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
    let dataset = mnist::from_bytes(MNIST_IMAGES, MNIST_LABELS)?;
    let mut config = TrainConfig::preset("mnist")?;
    // pytorch.py uses AdamW for all parameters.
    config.optimizer.muon = false;
    let mut bench = Bench { dataset: &dataset, config, trainers: HashMap::new(), frozen: None };
    for line in std::io::stdin().lock().lines() {
        println!("{:.6}", bench.run(&line?)?);
    }
    Ok(())
}
