//! `cargo xtask anchor`: trains a U-Net of diffusers, to compare this project's recipes with.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo::workspace_root;
use crate::python::{DIFFUSERS, TORCH, environment};

/// Train a U-Net with PyTorch on coloured pictures and sample from it, to compare recipes with.
///
/// The recipe is that of bench/anchor.py: diffusers' `UNet2DModel` in bf16 with channels last,
/// AdamW, a cosine decay and an EMA. The samples are written as npy files, which `diffusion
/// evaluate samples` reads. The first call installs PyTorch and diffusers from PyPI into a virtual
/// environment in target/.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Environment:
  PYTHON  the interpreter that creates the virtual environment; default: python3

Example:
  cargo xtask anchor --data train.tar --minutes 20 --out target/anchor.npy -- --channels 32,64,64
  diffusion evaluate samples target/anchor-1.5.npy --judge judge.safetensors --against test.tar")]
pub(crate) struct AnchorArgs {
    /// A tar file of pictures in class folders
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Minutes of training
    #[arg(long, value_name = "M")]
    minutes: f64,
    /// Write the samples to this file; the guidance scale is added to its name
    #[arg(long, value_name = "FILE.npy")]
    out: PathBuf,
    /// More arguments of bench/anchor.py
    #[arg(last = true)]
    more: Vec<String>,
}

pub(crate) fn run(args: &AnchorArgs) -> Result<()> {
    let python = environment("target/bench/venv", &[TORCH, DIFFUSERS, "numpy", "setuptools"])?;
    let minutes = args.minutes.to_string();
    let mut command = Command::new(python);
    command.arg(workspace_root().join("bench/anchor.py"));
    command.arg("--data").arg(&args.data).arg("--out").arg(&args.out);
    command.args(["--minutes", &minutes]).args(&args.more);
    let status = command.status().context("cannot start Python")?;
    ensure!(status.success(), "bench/anchor.py failed: {status}");
    Ok(())
}
