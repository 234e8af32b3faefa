//! The contenders of the benchmark, and the worker processes that run the jobs.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

use crate::cargo::{built_program, workspace_root};
use crate::python::{TORCH, environment};

/// An implementation that the benchmark measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// This project.
    Kernels,
    /// This project, restricted to AVX2.
    Avx2,
    /// This project with candle's own operations.
    Plain,
    /// PyTorch.
    Torch { compiled: bool, channels_last: bool },
}

impl Contender {
    /// PyTorch without its compiler, in both layouts.
    pub(super) const ALL_EAGER: [Self; 2] = [
        Self::Torch { compiled: false, channels_last: false },
        Self::Torch { compiled: false, channels_last: true },
    ];
    const ALL_COMPILED: [Self; 2] = [
        Self::Torch { compiled: true, channels_last: false },
        Self::Torch { compiled: true, channels_last: true },
    ];

    /// All contenders that this machine can run.
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Kernels];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            all.push(Self::Avx2);
        }
        all.push(Self::Plain);
        all.extend(Self::ALL_EAGER);
        all.extend(Self::ALL_COMPILED);
        all
    }

    /// Starts a worker process with `threads` threads. PyTorch's needs the interpreter `python`.
    pub(super) fn start(self, threads: u32, python: Option<&PathBuf>) -> Result<Worker> {
        let root = workspace_root();
        let mut command = match self {
            Self::Torch { compiled, channels_last } => {
                let mut command =
                    Command::new(python.context("PyTorch needs a Python interpreter")?);
                command.arg(root.join("bench/pytorch.py"));
                command.arg(if compiled { "compile" } else { "eager" });
                command.arg(if channels_last { "channels_last" } else { "nchw" });
                command.arg(threads.to_string());
                command
            }
            _ => Command::new(built_program("diffusion-bench")?),
        };
        let kernels = match self {
            Self::Avx2 => Some("avx2"),
            Self::Plain => Some("slow"),
            _ => None,
        };
        command
            .env_remove("DIFFUSION_KERNELS")
            .envs(kernels.map(|kernels| ("DIFFUSION_KERNELS", kernels)));
        command
            .env("RAYON_NUM_THREADS", threads.to_string())
            .env("OMP_NUM_THREADS", threads.to_string());
        Worker::start(&self.to_string(), &mut command)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernels => f.write_str("diffusion"),
            Self::Avx2 => f.write_str("diffusion, AVX2 only"),
            Self::Plain => f.write_str("candle's operations"),
            Self::Torch { compiled, channels_last } => {
                f.write_str(if *compiled { "torch.compile" } else { "PyTorch" })?;
                f.write_str(if *channels_last { ", channels_last" } else { ", NCHW" })
            }
        }
    }
}

/// A process that runs one job at a time.
pub(super) struct Worker {
    name: String,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts `command` with pipes. `name` is used in errors.
    pub(super) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            name: name.to_owned(),
            input: input.context("the worker has no standard input")?,
            output: BufReader::new(output.context("the worker has no standard output")?),
            child,
        })
    }

    /// Runs a job and returns the worker's answer, a number.
    pub(super) fn run(&mut self, job: &str) -> Result<f64> {
        let mut answer = || -> Result<f64> {
            writeln!(self.input, "{job}")?;
            let mut line = String::new();
            self.output.read_line(&mut line)?;
            line.trim().parse().with_context(|| format!("expected a number, got `{}`", line.trim()))
        };
        answer().with_context(|| format!("`{job}` failed in the worker of {}", self.name))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Errors are ignored: the process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreter of a virtual environment with PyTorch, created if missing.
pub(super) fn python() -> Result<PathBuf> {
    environment("target/bench/venv", &[TORCH, "numpy", "setuptools"])
}
