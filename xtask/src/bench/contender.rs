//! The contenders of the benchmark, and the worker processes that run the jobs.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

use crate::cargo::{built_program, workspace_root};
use crate::python::{DIFFUSERS, TORCH, environment};

/// An implementation that the benchmark measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// This project.
    Kernels { bf16: bool },
    /// This project, restricted to AVX2.
    Avx2,
    /// This project with candle's own operations.
    Plain,
    /// PyTorch, in bf16 with autocast.
    Torch { compiled: bool, channels_last: bool, bf16: bool },
}

impl Contender {
    /// PyTorch without its compiler in NCHW and f32, whose matrix product is measured, too.
    pub(super) const EAGER: Self =
        Self::Torch { compiled: false, channels_last: false, bf16: false };

    /// All contenders that this machine can run.
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Kernels { bf16: false }];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bf16") {
            all.push(Self::Kernels { bf16: true });
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            all.push(Self::Avx2);
        }
        all.push(Self::Plain);
        for bf16 in [false, true] {
            for compiled in [false, true] {
                for channels_last in [false, true] {
                    all.push(Self::Torch { compiled, channels_last, bf16 });
                }
            }
        }
        all
    }

    /// Whether this is PyTorch, in f32 or also in bf16.
    pub(super) fn is_torch(self, with_bf16: bool) -> bool {
        matches!(self, Self::Torch { bf16, .. } if with_bf16 || !bf16)
    }

    /// Whether this is this project at its best, in f32 or also in bf16.
    pub(super) fn is_ours(self, with_bf16: bool) -> bool {
        matches!(self, Self::Kernels { bf16 } if with_bf16 || !bf16)
    }

    /// Whether this contender measures all networks, and not only the smallest.
    pub(super) fn is_main(self) -> bool {
        match self {
            Self::Kernels { .. } => true,
            Self::Avx2 | Self::Plain => false,
            Self::Torch { compiled, channels_last, .. } => channels_last || !compiled,
        }
    }

    /// Whether this is PyTorch with its compiler.
    pub(super) fn is_compiled(self) -> bool {
        matches!(self, Self::Torch { compiled: true, .. })
    }

    /// Starts a worker process with `threads` threads. PyTorch's needs the interpreter `python`.
    pub(super) fn start(self, threads: u32, python: Option<&PathBuf>) -> Result<Worker> {
        let root = workspace_root();
        let mut command = match self {
            Self::Torch { compiled, channels_last, bf16 } => {
                let mut command =
                    Command::new(python.context("PyTorch needs a Python interpreter")?);
                command.arg(root.join("bench/pytorch.py"));
                command.arg(if compiled { "compile" } else { "eager" });
                command.arg(if channels_last { "channels_last" } else { "nchw" });
                command.arg(if bf16 { "bf16" } else { "f32" });
                command.arg(threads.to_string());
                command
            }
            _ => Command::new(built_program("diffusion-bench")?),
        };
        if self == (Self::Kernels { bf16: true }) {
            command.arg("bf16");
        }
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
            Self::Kernels { bf16: false } => f.write_str("diffusion"),
            Self::Kernels { bf16: true } => f.write_str("diffusion, bf16"),
            Self::Avx2 => f.write_str("diffusion, AVX2 only"),
            Self::Plain => f.write_str("candle's operations"),
            Self::Torch { compiled, channels_last, bf16 } => {
                f.write_str(if *compiled { "torch.compile" } else { "PyTorch" })?;
                f.write_str(if *channels_last { ", channels_last" } else { ", NCHW" })?;
                f.write_str(if *bf16 { ", bf16" } else { "" })
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
    environment("target/bench/venv", &[TORCH, DIFFUSERS, "numpy", "setuptools"])
}
