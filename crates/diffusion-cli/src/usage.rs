//! Telling the user's mistakes from the world's.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

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
        return Err($crate::usage::UsageError(format!($($message)*)).into())
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

/// Refuses a picture's name that says it is of another kind, or is in a folder that does not exist, before anything is computed.
pub(crate) fn check_picture(flag: &str, path: &Path, endings: &[&str]) -> anyhow::Result<()> {
    let fits = |found: &OsStr| endings.iter().any(|ending| found.eq_ignore_ascii_case(ending));
    if !path.extension().is_some_and(fits) {
        bail_usage!("{flag} {}: the name must end in .{}", path.display(), endings.join(" or ."));
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            bail_usage!("{flag} {}: there is no folder {}", path.display(), folder.display())
        }
        _ => Ok(()),
    }
}

/// What charts are written as.
pub(crate) const CHARTS: [&str; 2] = ["png", "svg"];
