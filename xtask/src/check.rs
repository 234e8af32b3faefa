//! `cargo xtask check` and `cargo xtask check-cuda`: the checks of CI, and a type check with CUDA.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use crate::cargo::cargo;
use crate::package::{self, PackageArgs};
use crate::prose::{self, ProseArgs};
use crate::structure::{self, StructureArgs};

/// Checks format, structure, prose, lints, documentation, tests and packages, and the licences if
/// cargo-deny is installed.
pub(crate) fn run() -> anyhow::Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    structure::run(&StructureArgs::default())?;
    prose::run(&ProseArgs::default())?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    cargo(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings".to_owned())])?;
    cargo(&["test", "--workspace"], &[])?;
    package::run(&PackageArgs::default())?;
    let deny = Command::new("cargo").args(["deny", "--version"]).output();
    if deny.is_ok_and(|output| output.status.success()) {
        cargo(&["deny", "check"], &[])?;
    } else {
        println!("cargo-deny is not installed; licences and advisories were not checked");
    }
    Ok(())
}

/// Type-checks the program and the crates that it needs, with the feature `cuda`.
pub(crate) fn run_cuda() -> anyhow::Result<()> {
    let (_, variables) = cuda_variables()?;
    cargo(&["check", "-p", "diffusion-cli", "--features", "cuda"], &variables)
}

/// The folder of CUDA, and the environment in which cargo builds with the feature `cuda`.
///
/// The build compiles CUDA kernels, so it needs nvcc: install the CUDA toolkit, or only its
/// compiler as Python wheels, and set `CUDA_HOME`.
///
/// # Errors
///
/// If `CUDA_HOME` is not set or has no nvcc.
pub(crate) fn cuda_variables() -> anyhow::Result<(PathBuf, Vec<(&'static str, String)>)> {
    let Some(home) = std::env::var_os("CUDA_HOME").or_else(|| std::env::var_os("CUDA_PATH")) else {
        bail!(
            "set CUDA_HOME to a CUDA 13.0 toolkit; without a GPU, install its compiler as wheels: \
             in a venv, pip install 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' \
             'nvidia-nvvm==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' \
             'nvidia-cuda-nvrtc==13.0.*' nvidia-curand, and set CUDA_HOME to the venv's \
             site-packages/nvidia/cu13"
        );
    };
    let home = PathBuf::from(home);
    let nvcc = home.join("bin/nvcc");
    if !nvcc.exists() {
        bail!("CUDA_HOME is {}, but {} does not exist", home.display(), nvcc.display());
    }
    let path = std::env::join_paths(
        std::iter::once(home.join("bin"))
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    let capability = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".to_owned());
    let names = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
    let mut variables: Vec<_> =
        names.into_iter().map(|name| (name, home.display().to_string())).collect();
    variables.extend([
        ("NVCC", nvcc.display().to_string()),
        ("PATH", path.to_string_lossy().into_owned()),
        ("CUDA_COMPUTE_CAP", capability),
    ]);
    Ok((home, variables))
}
