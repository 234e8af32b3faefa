//! Virtual environments of Python, made where they are missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::workspace_root;

/// The PyTorch that this project is compared with.
pub(crate) const TORCH: &str = "torch==2.15.0";

/// The interpreter of the virtual environment `folder`, a path in the workspace, with `packages`, each as pip names it.
/// Those with a version are installed if another or none is there, and the rest with them.
pub(crate) fn environment(folder: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = workspace_root().join(folder);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        let base = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        call(Command::new(base).args(["-m", "venv"]).arg(&folder))?;
    }
    if !has(&python, packages) {
        eprintln!("installing {} into {}", packages.join(", "), folder.display());
        call(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    }
    Ok(python)
}

/// Whether the packages that have a version are there in that version.
fn has(python: &Path, packages: &[&str]) -> bool {
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

/// Runs a command and fails if it does.
pub(crate) fn call(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}
