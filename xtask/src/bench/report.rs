//! The results of the benchmark, as tables and as JSON.

use std::fmt;

use serde_json::{Value, json};

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

/// The peak of a process's resident set.
pub(super) struct Memory {
    pub contender: Contender,
    /// What the process has done.
    pub state: &'static str,
    pub mib: f64,
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

    /// The shortest median of some contenders for one job; infinite if there is none.
    fn best(&self, threads: u32, work: &str, is_chosen: impl Fn(Contender) -> bool) -> f64 {
        let chosen = self.row(threads, work).filter(|times| is_chosen(times.contender));
        chosen.map(Times::median).fold(f64::INFINITY, f64::min)
    }

    /// This project's time divided by PyTorch's, in f32 or with the faster precision of each.
    fn ratio(&self, threads: u32, work: &str, with_bf16: bool) -> f64 {
        self.best(threads, work, |contender| contender.is_ours(with_bf16))
            / self.best(threads, work, |contender| contender.is_torch(with_bf16))
    }

    /// The jobs, in the order of their measurement.
    fn works(&self) -> Vec<&'static str> {
        distinct(self.times.iter().map(|times| times.work))
    }

    /// All results, with the times of every round.
    pub(super) fn figures(&self) -> Value {
        let times = self.times.iter().map(|times| {
            json!({
                "threads": times.threads,
                "work": times.work,
                "contender": times.contender.to_string(),
                "median_ms": times.median(),
                "rounds_ms": times.milliseconds,
            })
        });
        let memory = self.memory.iter().map(|memory| {
            json!({
                "contender": memory.contender.to_string(),
                "state": memory.state,
                "mib": memory.mib,
            })
        });
        let ratios = self.numbers_of_threads().into_iter().flat_map(|threads| {
            self.works().into_iter().map(move |work| {
                json!({
                    "threads": threads,
                    "work": work,
                    "f32": self.ratio(threads, work, false),
                    "best": self.ratio(threads, work, true),
                })
            })
        });
        json!({
            "machine": self.machine,
            "pytorch": TORCH,
            "rounds": self.rounds,
            "sgemm_gflops": self.sgemm,
            "times": times.collect::<Vec<_>>(),
            "ratios_to_pytorch": ratios.collect::<Vec<_>>(),
            "peak_memory": memory.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}; {TORCH}; medians of {} rounds", self.machine, self.rounds)?;
        for (threads, sgemm) in &self.sgemm {
            writeln!(f, "A matrix product reaches {sgemm:.0} GFLOP/s with {threads} threads.")?;
        }
        let contenders = Contender::all();
        for threads in self.numbers_of_threads() {
            writeln!(
                f,
                "\nMedian milliseconds with {threads} threads; ratios: diffusion / PyTorch, each at its \
                 best, in f32 and in the faster precision\n"
            )?;
            write!(f, "| work | f32 | best |")?;
            contenders.iter().try_for_each(|contender| write!(f, " {contender} |"))?;
            write!(f, "\n|---|---|---|{}\n", "---|".repeat(contenders.len()))?;
            for work in self.works() {
                let [f32, best] = [false, true].map(|bf16| self.ratio(threads, work, bf16));
                write!(f, "| {work} | {f32:.2} | {best:.2} |")?;
                for contender in &contenders {
                    match self.row(threads, work).find(|times| times.contender == *contender) {
                        Some(times) => write!(f, " {:.1} |", times.median())?,
                        None => write!(f, " – |")?,
                    }
                }
                writeln!(f)?;
            }
        }
        write!(f, "\nPeak memory, MiB\n\n| after |")?;
        contenders.iter().try_for_each(|contender| write!(f, " {contender} |"))?;
        write!(f, "\n|---|{}\n", "---|".repeat(contenders.len()))?;
        for state in distinct(self.memory.iter().map(|memory| memory.state)) {
            write!(f, "| {state} |")?;
            for contender in &contenders {
                let is_cell =
                    |memory: &&Memory| (memory.contender, memory.state) == (*contender, state);
                match self.memory.iter().find(is_cell) {
                    Some(memory) => write!(f, " {:.0} |", memory.mib)?,
                    None => write!(f, " – |")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The names in the order of their first occurrence, each once.
fn distinct(names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

/// The processor's name, cores and AVX-512 support, and the operating system.
pub(super) fn machine() -> String {
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
