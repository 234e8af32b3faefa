//! Ctrl-C: the first one requests to stop and save, the second one ends the program at once.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

/// The exit code that shells report for a program ended by Ctrl-C (128 + SIGINT).
pub(crate) const EXIT_CODE: u8 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Installs the handler of Ctrl-C.
pub(crate) fn listen() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(EXIT_CODE.into());
        }
        tracing::warn!(
            "interrupted: stopping after this step (press Ctrl-C again to stop at once)"
        );
    })
    .context("cannot listen for Ctrl-C")
}

/// `Break` after Ctrl-C.
pub(crate) fn flow() -> ControlFlow<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
