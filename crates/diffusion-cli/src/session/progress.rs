//! Progress: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Plain lines come this far apart, so that a log stays short.
pub(crate) const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// A counter with a message.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    length: u64,
    start: Instant,
    last_line: Option<Instant>,
}

impl Progress {
    /// Counts `what` up to `length`.
    pub(crate) fn new(what: &'static str, length: u64, quiet: bool) -> Self {
        let on_terminal = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        let bar = (on_terminal && !quiet).then(|| {
            // The template is a constant; the tests of indicatif vouch for its grammar.
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(length).with_style(style);
            bar.set_prefix(what);
            bar
        });
        Self { bar, what, length, start: Instant::now(), last_line: None }
    }

    /// Moves to `position` of the length; `message` says the rest.
    pub(crate) fn set(&mut self, position: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(message());
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
            self.last_line = Some(Instant::now());
            tracing::info!("{} {}", self.what, message());
        }
    }

    /// The same of work that goes on evenly, with the time that is left of it.
    pub(crate) fn advance(&mut self, position: u64, message: impl FnOnce() -> String) {
        let (start, after) = (self.start, self.length.saturating_sub(position));
        self.set(position, || {
            let left = start.elapsed().as_secs_f64() / position.max(1) as f64 * after as f64;
            format!("{}, {} left", message(), clock(left))
        });
    }

    /// Says something beside the bar.
    pub(crate) fn note(&self, message: &str) {
        if let Some(bar) = &self.bar {
            bar.println(message);
        } else {
            tracing::info!("{message}");
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Minutes and seconds.
pub(crate) fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}
