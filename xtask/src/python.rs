//! Virtual environments of Python, created if missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::workspace_root;

/// The version of PyTorch that this project is compared with.
pub(crate) const TORCH: &str = "torch==2.15.0";
/// The version of diffusers whose numbers and networks this project is compared with.
pub(crate) const DIFFUSERS: &str = "diffusers==0.42.1";

/// The interpreter of the virtual environment in `folder` (a path in the workspace), with
/// `packages` in pip's notation.
///
/// All packages are installed if one that names a version is missing or has another version.
pub(crate) fn environment(folder: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = workspace_root().join(folder);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        let base = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        call(Command::new(base).args(["-m", "venv"]).arg(&folder))?;
    }
    if !has_versions(&python, packages) {
        eprintln!("installing {} into {}", packages.join(", "), folder.display());
        call(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    }
    Ok(python)
}

/// Whether all packages that name a version are installed in that version.
fn has_versions(python: &Path, packages: &[&str]) -> bool {
    let checks =
        packages.iter().filter_map(|package| package.split_once("==")).map(|(name, version)| {
            let name = name.replace('-', "_");
            format!("import {name}; assert {name}.__version__.split('+')[0] == '{version}'\n")
        });
    Command::new(python)
        .args(["-c", &checks.collect::<String>()])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command.
///
/// # Errors
///
/// If the command cannot be started or fails.
pub(crate) fn call(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}
