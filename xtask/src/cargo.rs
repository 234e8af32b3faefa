//! The workspace's folder, and calls of cargo in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// The folder with the workspace's Cargo.toml.
pub(crate) fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// The path of a program that cargo built in the workspace (debug profile).
///
/// # Errors
///
/// If the program does not exist.
pub(crate) fn built_program(name: &str) -> anyhow::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace_root().join("target"), PathBuf::from);
    let path = target.join("debug").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    ensure!(path.is_file(), "cargo did not build {}", path.display());
    Ok(path)
}

/// Runs cargo in the workspace, with environment `variables`.
///
/// # Errors
///
/// If cargo cannot be started or fails.
pub(crate) fn cargo(args: &[&str], variables: &[(&str, String)]) -> anyhow::Result<()> {
    println!("$ cargo {}", args.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(args)
        .current_dir(workspace_root())
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    Ok(())
}

/// Runs cargo in the workspace, with environment `variables`, and returns its standard output.
///
/// # Errors
///
/// If cargo cannot be started or fails, or if its output is not UTF-8.
pub(crate) fn cargo_output(args: &[&str], variables: &[(&str, String)]) -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(args)
        .current_dir(workspace_root())
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo {} failed", args.join(" "));
    String::from_utf8(output.stdout)
        .with_context(|| format!("the output of cargo {}", args.join(" ")))
}
