//! Progress: a bar on a terminal, otherwise log lines.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The least time between two log lines, which keeps a log short.
pub(crate) const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// A counter with a message.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    label: &'static str,
    length: u64,
    start: Instant,
    last_line: Option<Instant>,
}

impl Progress {
    /// A counter named `label`, from 0 to `length`.
    pub(crate) fn new(label: &'static str, length: u64, quiet: bool) -> Self {
        let on_terminal = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        let bar = (on_terminal && !quiet).then(|| {
            // The template is a valid constant, so the fallback is never used.
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(length).with_style(style);
            bar.set_prefix(label);
            bar
        });
        Self { bar, label, length, start: Instant::now(), last_line: None }
    }

    /// Moves to `position` and shows `message`.
    pub(crate) fn set(&mut self, position: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(message());
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
            self.last_line = Some(Instant::now());
            tracing::info!("{} {}", self.label, message());
        }
    }

    /// Moves to `position` and shows `message` with an estimate of the remaining time, which
    /// assumes a constant speed.
    pub(crate) fn advance(&mut self, position: u64, message: impl FnOnce() -> String) {
        let (start, remaining) = (self.start, self.length.saturating_sub(position));
        self.set(position, || {
            let left = start.elapsed().as_secs_f64() / position.max(1) as f64 * remaining as f64;
            format!("{}, {} left", message(), clock(left))
        });
    }

    /// Prints a line above the bar, or logs it.
    pub(crate) fn note(&self, message: &str) {
        if let Some(bar) = &self.bar {
            bar.println(message);
        } else {
            tracing::info!("{message}");
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A duration as `12s`, `3m05s` or `1h20m`.
pub(crate) fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}
