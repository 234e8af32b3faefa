//! The worker process of `cargo xtask bench`: runs jobs of this project and measures their time.
//!
//! Reads one job per line from standard input, runs it once and prints one number, in milliseconds
//! unless stated otherwise:
//!
//! - `train BATCH [NETWORK]`: a complete training step, from the loader to the moving average
//! - `forward BATCH [NETWORK]`: the network without gradients
//! - `sample SAMPLER NUM STEPS [NETWORK]`: images from noise, with guidance if the network has
//!   classes
//! - `sgemm`: GFLOP/s of candle's product of two matrices of 1024 × 1024
//! - `loss BATCH STEPS [NETWORK]`: the mean loss of the last quarter of the training steps
//! - `tensors BATCH [NETWORK]`: the number of candle's tensors that a training step creates; with
//!   `DIFFUSION_KERNELS=slow`, a measure of the operations that a GPU computes one after the other
//! - `memory`: the peak of the resident set in KiB, 0 if unknown
//! - `profile TIMES JOB`: the mean time of a job; prints a profile to standard error
//!
//! With the argument `bf16`, networks multiply in bf16. With the argument `cuda`, in a build with
//! that feature, they run on the first CUDA device. With the arguments `pictures FOLDER`, it runs
//! the jobs of the loader benchmark instead.
//!
//! The network is one of `networks.json` (`unet2d-WIDTH-SIDE` scales its `unet2d`), or `recipe` for
//! the `mnist` preset with classes and Muon, or else that preset's network without them.
//! `RAYON_NUM_THREADS` sets the number of threads, and `DIFFUSION_KERNELS` the kernels (for example
//! `avx2` or `slow`).
//!
//! This crate does not compare anything: `cargo xtask bench` starts the workers and prints the
//! tables. `benches/kernels.rs` measures single kernels with `cargo bench -p diffusion-bench`.
//!
//! ```sh
//! cargo build --workspace --bin diffusion-bench
//! printf 'train 64\ntrain 64\nmemory\n' | target/debug/diffusion-bench
//! ```

mod loader;
mod network;
mod profile;

use std::collections::HashMap;
use std::hint::black_box;
use std::io::BufRead;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use diffusion_kernels::Precision;
use diffusion_sample::SamplerKind;

use network::Measured;

/// The allocator of the program `diffusion`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The networks that were measured so far, by name.
struct Bench {
    precision: Precision,
    device: Device,
    networks: HashMap<String, Measured>,
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

impl Bench {
    fn run(&mut self, job: &str) -> Result<f64> {
        let words: Vec<&str> = job.split_whitespace().collect();
        let number = |i: usize| -> Result<usize> {
            let word = words.get(i).with_context(|| format!("`{job}` needs another number"))?;
            word.parse().with_context(|| format!("expected a number, got `{word}` in `{job}`"))
        };
        match words.first() {
            Some(&"train") => self.network(words.get(2))?.train(number(1)?),
            Some(&"forward") => self.network(words.get(2))?.forward(number(1)?),
            Some(&"sample") => {
                let name = words.get(1).copied().unwrap_or_default();
                let sampler = SamplerKind::from_name(name)
                    .with_context(|| format!("unknown sampler `{name}`"))?;
                self.network(words.get(4))?.sample(sampler, number(2)?, number(3)?)
            }
            Some(&"sgemm") => sgemm(),
            Some(&"loss") => self.network(words.get(3))?.loss(number(1)?, number(2)?),
            Some(&"tensors") => self.network(words.get(2))?.tensors(number(1)?),
            Some(&"memory") => Ok(peak_kib()),
            Some(&"profile") => self.profile(number(1)?, &words[2..].join(" ")),
            _ => {
                bail!(
                    "unknown job `{job}`; known: train, forward, sample, sgemm, loss, tensors, memory, profile"
                )
            }
        }
    }

    fn network(&mut self, name: Option<&&str>) -> Result<&mut Measured> {
        let name = name.copied().unwrap_or(network::DEFAULT);
        if !self.networks.contains_key(name) {
            self.networks
                .insert(name.to_owned(), Measured::named(name, self.precision, &self.device)?);
        }
        self.networks.get_mut(name).context("no network")
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
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let mut bench = Bench {
        precision: if has("bf16") { Precision::Bf16 } else { Precision::F32 },
        device: if has("cuda") { Device::new_cuda(0)? } else { Device::Cpu },
        networks: HashMap::new(),
    };
    for line in std::io::stdin().lock().lines() {
        println!("{:.6}", bench.run(&line?)?);
    }
    Ok(())
}
