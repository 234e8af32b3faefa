//! Telling the user's mistakes from the world's.

use std::fmt;

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
