//! Usage errors (exit code 2), and checks of paths before anything is computed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use diffusion_schedule::ScheduleError;
use diffusion_train::{ConfigError, TrainError};

/// A wrong argument that clap cannot detect.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Returns a usage error.
macro_rules! bail_usage {
    ($($message:tt)*) => {
        return Err($crate::session::usage::UsageError(format!($($message)*)).into())
    };
}
pub(crate) use bail_usage;

/// Whether an argument or the configuration caused the error.
pub(crate) fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<UsageError>()
            || cause.is::<ConfigError>()
            || matches!(cause.downcast_ref(), Some(TrainError::Config(_)))
    })
}

/// A training error, with the flags that solve it.
pub(crate) fn with_advice(error: TrainError) -> anyhow::Error {
    let advice = match &error {
        TrainError::RunExists { .. } => "continue it with --resume, or choose another folder",
        TrainError::OtherData { .. } => "use the same --data as before",
        TrainError::ClassesMissing { .. } => {
            "remove --conditional=never, or use pictures with classes"
        }
        _ => return error.into(),
    };
    anyhow::anyhow!("{error}; {advice}")
}

/// The plan, or a usage error of --steps, whose value is `steps`.
pub(crate) fn checked_plan<T>(steps: usize, plan: Result<T, ScheduleError>) -> anyhow::Result<T> {
    plan.or_else(|e| bail_usage!("--steps {steps}: {e}"))
}

/// The name of the first of `flags` whose value is true.
pub(crate) fn first_given<'a>(flags: &[(&'a str, bool)]) -> Option<&'a str> {
    flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
}

/// Fails if the input `path` of `flag` does not exist.
pub(crate) fn check_input(flag: &str, path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        bail_usage!("{flag} {}: there is no such file or folder", path.display());
    }
    Ok(())
}

/// Fails if the output `path` of `flag` ends in none of `endings` or cannot be written.
pub(crate) fn check_picture(flag: &str, path: &Path, endings: &[&str]) -> anyhow::Result<()> {
    check_ending(flag, path, endings)?;
    check_output(flag, path)
}

/// Like [`check_picture`] for a command that makes the folder `out`, in which the picture may be.
pub(crate) fn check_picture_beside(
    out: &Path,
    flag: &str,
    path: &Path,
    endings: &[&str],
) -> anyhow::Result<()> {
    check_ending(flag, path, endings)?;
    let is_new = !out.exists() && path.parent().is_some_and(|folder| folder == out);
    if is_new { Ok(()) } else { check_output(flag, path) }
}

fn check_ending(flag: &str, path: &Path, endings: &[&str]) -> anyhow::Result<()> {
    let matches = |own: &OsStr| endings.iter().any(|ending| own.eq_ignore_ascii_case(ending));
    if !path.extension().is_some_and(matches) {
        bail_usage!("{flag} {}: the name must end in .{}", path.display(), endings.join(" or ."));
    }
    Ok(())
}

/// Fails if the output `path` of `flag` cannot be written. Leaves no new file and does not change
/// an existing one.
pub(crate) fn check_output(flag: &str, path: &Path) -> anyhow::Result<()> {
    if let Some(folder) = path.parent()
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        bail_usage!("{flag} {}: there is no folder {}", path.display(), folder.display());
    }
    if path.is_dir() {
        bail_usage!("{flag} {}: it is a folder; name a file", path.display());
    }
    let new = path.symlink_metadata().is_err();
    if !new && !path.is_file() {
        // A pipe or a device: its reader would notice if it were opened here.
        return Ok(());
    }
    match OpenOptions::new().write(true).create(true).truncate(false).open(path) {
        Ok(_) if new => Ok(fs::remove_file(path)?),
        Ok(_) => Ok(()),
        Err(e) => bail_usage!("{flag} {}: it cannot be written: {e}", path.display()),
    }
}

/// Fails if an output would overwrite one of `inputs`. Outputs are the `files` with their flags,
/// and the `results` of --out.
pub(crate) fn check_no_overwrite(
    inputs: &[PathBuf],
    files: &[(&str, &Option<PathBuf>)],
    results: impl Iterator<Item = PathBuf>,
) -> anyhow::Result<()> {
    let originals: HashMap<PathBuf, &PathBuf> =
        inputs.iter().filter_map(|path| Some((path.canonicalize().ok()?, path))).collect();
    let files = files.iter().filter_map(|(flag, file)| Some((*flag, (*file).clone()?)));
    for (flag, file) in files.chain(results.map(|file| ("--out", file))) {
        if let Some(input) = file.canonicalize().ok().and_then(|file| originals.get(&file)) {
            bail_usage!(
                "{flag}: {} would overwrite the input {}; choose another file or folder",
                file.display(),
                input.display()
            );
        }
    }
    Ok(())
}

/// Endings of chart files.
pub(crate) const CHARTS: [&str; 2] = ["png", "svg"];
