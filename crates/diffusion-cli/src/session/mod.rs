//! Services for all commands: device, log, Ctrl-C, progress, and checks of paths.

pub(crate) mod device;
pub(crate) mod generation;
pub(crate) mod interrupt;
pub(crate) mod logging;
pub(crate) mod progress;
pub(crate) mod trajectory;
pub(crate) mod usage;
