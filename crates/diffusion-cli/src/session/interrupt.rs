//! Signals to stop: Ctrl-C, SIGTERM and SIGHUP. The first one requests to stop and save, the second
//! one ends the program at once.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Context;

/// SIGINT, the signal of Ctrl-C on all platforms.
const INTERRUPT: u8 = 2;

/// The first signal that arrived; 0 before.
static SIGNAL: AtomicU8 = AtomicU8::new(0);

/// Handles Ctrl-C, and on Unix SIGTERM and SIGHUP.
pub(crate) fn listen() -> anyhow::Result<()> {
    handle().context("cannot handle Ctrl-C")
}

#[cfg(unix)]
fn handle() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let mut signals = vec![SIGINT, SIGTERM];
    if is_hangup_handled() {
        signals.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(signals)?;
    std::thread::spawn(move || signals.forever().for_each(|signal| stop(signal as u8)));
    Ok(())
}

/// Whether SIGHUP ends the program. `nohup` and `disown` start programs that ignore it, and these
/// must go on. Only Linux tells without unsafe code.
#[cfg(unix)]
fn is_hangup_handled() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The lowest bit is signal 1, SIGHUP.
    ignored.is_some_and(|mask| mask & 1 == 0)
}

#[cfg(not(unix))]
fn handle() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| stop(INTERRUPT))
}

fn stop(signal: u8) {
    if SIGNAL.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        std::process::exit((128 + signal).into());
    }
    let again = if signal == INTERRUPT { " (press Ctrl-C again to stop at once)" } else { "" };
    tracing::warn!("interrupted: stopping after this step{again}");
}

/// The exit code that shells report for a program ended by the signal that arrived: 130 for Ctrl-C,
/// 143 for SIGTERM, 129 for SIGHUP.
pub(crate) fn exit_code() -> u8 {
    let signal = SIGNAL.load(Ordering::SeqCst);
    128 + if signal == 0 { INTERRUPT } else { signal }
}

/// `Break` after a signal.
pub(crate) fn flow() -> ControlFlow<()> {
    if SIGNAL.load(Ordering::SeqCst) == 0 {
        ControlFlow::Continue(())
    } else {
        ControlFlow::Break(())
    }
}
