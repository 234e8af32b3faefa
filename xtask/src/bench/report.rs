//! The results of the benchmark, as tables and as JSON.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::contender::Contender;
use crate::python::TORCH;

/// The times of one contender for one job.
pub(super) struct Times {
    pub threads: u32,
    pub work: &'static str,
    pub contender: Contender,
    /// The median of each round.
    pub milliseconds: Vec<f64>,
}

impl Times {
    fn median(&self) -> f64 {
        super::median(self.milliseconds.clone())
    }
}

/// Peaks of the resident set, in MiB.
pub(super) struct Memory {
    pub contender: Contender,
    /// A process that has only loaded its libraries.
    pub at_rest: f64,
    /// A process that has trained with batches of 64.
    pub training: f64,
    /// A process that has sampled.
    pub sampling: f64,
}

/// All results of a benchmark.
pub(super) struct Report {
    machine: String,
    rounds: u32,
    /// GFLOP/s of a matrix product by number of threads: the bound for plain sums.
    pub sgemm: Vec<(u32, f64)>,
    pub times: Vec<Times>,
    pub memory: Vec<Memory>,
}

impl Report {
    pub(super) fn new(rounds: u32) -> Self {
        Self {
            machine: machine(),
            rounds,
            sgemm: Vec::new(),
            times: Vec::new(),
            memory: Vec::new(),
        }
    }

    fn numbers_of_threads(&self) -> Vec<u32> {
        let mut threads: Vec<u32> = self.times.iter().map(|times| times.threads).collect();
        threads.dedup();
        threads
    }

    /// The times of all contenders for one job, in the order of the columns.
    fn row<'a>(&'a self, threads: u32, work: &'a str) -> impl Iterator<Item = &'a Times> {
        self.times.iter().filter(move |times| times.threads == threads && times.work == work)
    }

    /// The median time, divided by that of PyTorch's faster layout without its compiler.
    fn ratio(&self, times: &Times) -> f64 {
        let eager = self
            .row(times.threads, times.work)
            .filter(|t| Contender::ALL_EAGER.contains(&t.contender));
        times.median() / eager.map(Times::median).fold(f64::INFINITY, f64::min)
    }

    /// Writes all results, with the times of every round.
    pub(super) fn write_json(&self, path: &Path) -> Result<()> {
        let times = self.times.iter().map(|times| {
            json!({
                "threads": times.threads,
                "work": times.work,
                "contender": times.contender.to_string(),
                "median_ms": times.median(),
                "ratio_to_eager_pytorch": self.ratio(times),
                "rounds_ms": times.milliseconds,
            })
        });
        let memory = self.memory.iter().map(|memory| {
            json!({
                "contender": memory.contender.to_string(),
                "at_rest_mib": memory.at_rest,
                "training_mib": memory.training,
                "sampling_mib": memory.sampling,
            })
        });
        let text = serde_json::to_string_pretty(&json!({
            "machine": self.machine,
            "pytorch": TORCH,
            "rounds": self.rounds,
            "sgemm_gflops": self.sgemm,
            "times": times.collect::<Vec<_>>(),
            "peak_memory": memory.collect::<Vec<_>>(),
        }))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}; {TORCH}; medians of {} rounds", self.machine, self.rounds)?;
        for (threads, sgemm) in &self.sgemm {
            writeln!(f, "A matrix product reaches {sgemm:.0} GFLOP/s with {threads} threads.")?;
        }
        let contenders: Vec<Contender> =
            self.memory.iter().map(|memory| memory.contender).collect();
        for threads in self.numbers_of_threads() {
            writeln!(
                f,
                "\nMedian milliseconds with {threads} threads; ratio: diffusion / the faster layout of \
                 PyTorch\n"
            )?;
            write!(f, "| work | ratio |")?;
            contenders.iter().try_for_each(|contender| write!(f, " {contender} |"))?;
            write!(f, "\n|---|---|{}\n", "---|".repeat(contenders.len()))?;
            for (_, work, _) in super::JOBS {
                let row: Vec<&Times> = self.row(threads, work).collect();
                write!(
                    f,
                    "| {work} | {:.2} |",
                    row.first().map_or(f64::NAN, |times| self.ratio(times))
                )?;
                row.iter().try_for_each(|times| write!(f, " {:.1} |", times.median()))?;
                writeln!(f)?;
            }
        }
        writeln!(
            f,
            "\nPeak memory, MiB\n\n| process | idle | training, batch 64 | sampling 16 digits |\n\
             |---|---|---|---|"
        )?;
        for Memory { contender, at_rest, training, sampling } in &self.memory {
            writeln!(f, "| {contender} | {at_rest:.0} | {training:.0} | {sampling:.0} |")?;
        }
        Ok(())
    }
}

/// The processor's name, cores and AVX-512 support, and the operating system.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[cfg(target_arch = "x86_64")]
    let instructions =
        if is_x86_feature_detected!("avx512f") { ", AVX-512" } else { ", no AVX-512" };
    #[cfg(not(target_arch = "x86_64"))]
    let instructions = "";
    format!("{name}, {cores} cores{instructions}, {}", std::env::consts::OS)
}
