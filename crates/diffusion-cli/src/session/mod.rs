//! What every command has around it: the device, the log, Ctrl-C, progress, and checks of what the user named.

pub(crate) mod device;
pub(crate) mod generation;
pub(crate) mod interrupt;
pub(crate) mod logging;
pub(crate) mod progress;
pub(crate) mod trajectory;
pub(crate) mod usage;
