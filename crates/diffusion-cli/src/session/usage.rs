//! Telling the user's mistakes from the world's.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use diffusion_schedule::ScheduleError;
use diffusion_train::{ConfigError, TrainError};

/// A wrong argument that clap cannot see.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Ends a command with a usage error.
macro_rules! bail_usage {
    ($($message:tt)*) => {
        return Err($crate::session::usage::UsageError(format!($($message)*)).into())
    };
}
pub(crate) use bail_usage;

/// Whether the error is one of arguments or configuration.
pub(crate) fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<UsageError>()
            || cause.is::<ConfigError>()
            || matches!(cause.downcast_ref(), Some(TrainError::Config(_)))
    })
}

/// An error of training, with the flags that help.
pub(crate) fn with_advice(error: TrainError) -> anyhow::Error {
    let advice = match &error {
        TrainError::RunExists { .. } => "go on with it by --resume, or choose another folder",
        TrainError::OtherData { .. } => "give the same --data",
        TrainError::ClassesMissing { .. } => {
            "leave out --conditional=never, or give it pictures with classes"
        }
        _ => return error.into(),
    };
    anyhow::anyhow!("{error}; {advice}")
}

/// A plan, of which --steps asked for `steps` steps.
pub(crate) fn planned<T>(steps: usize, plan: Result<T, ScheduleError>) -> anyhow::Result<T> {
    plan.or_else(|e| bail_usage!("--steps {steps}: {e}"))
}

/// The first of `flags` that was given.
pub(crate) fn first_given<'a>(flags: &[(&'a str, bool)]) -> Option<&'a str> {
    flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
}

/// Refuses a file or a folder to read that is not there.
pub(crate) fn check_input(flag: &str, path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        bail_usage!("{flag} {}: there is no such file or folder", path.display());
    }
    Ok(())
}

/// Refuses a picture's name that says it is of another kind, or where no file can be written, before anything is computed.
pub(crate) fn check_picture(flag: &str, path: &Path, endings: &[&str]) -> anyhow::Result<()> {
    let fits = |found: &OsStr| endings.iter().any(|ending| found.eq_ignore_ascii_case(ending));
    if !path.extension().is_some_and(fits) {
        bail_usage!("{flag} {}: the name must end in .{}", path.display(), endings.join(" or ."));
    }
    check_output(flag, path)
}

/// Refuses a file that cannot be written, before anything is computed. Nothing is left behind, and a file that is there stays as it is.
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
        // A pipe or a device, whose reader would notice.
        return Ok(());
    }
    match OpenOptions::new().write(true).create(true).truncate(false).open(path) {
        Ok(_) if new => Ok(fs::remove_file(path)?),
        Ok(_) => Ok(()),
        Err(e) => bail_usage!("{flag} {}: it cannot be written: {e}", path.display()),
    }
}

/// Refuses outputs that are one of `inputs`, whose place they would take: the `files` after their flags, and the `results` of --out.
pub(crate) fn check_spares(
    inputs: &[PathBuf],
    files: &[(&str, &Option<PathBuf>)],
    results: impl Iterator<Item = PathBuf>,
) -> anyhow::Result<()> {
    let known: HashMap<PathBuf, &PathBuf> =
        inputs.iter().filter_map(|path| Some((path.canonicalize().ok()?, path))).collect();
    let files = files.iter().filter_map(|(flag, file)| Some((*flag, (*file).clone()?)));
    for (flag, file) in files.chain(results.map(|file| ("--out", file))) {
        if let Some(input) = file.canonicalize().ok().and_then(|file| known.get(&file)) {
            bail_usage!(
                "{flag}: {} would take the place of {}; name another file or folder",
                file.display(),
                input.display()
            );
        }
    }
    Ok(())
}

/// What charts are written as.
pub(crate) const CHARTS: [&str; 2] = ["png", "svg"];
