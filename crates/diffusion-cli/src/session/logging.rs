//! The log on standard error: messages, warnings and errors.

use std::io::IsTerminal;

use candle_core::Error as CandleError;
use tracing::Level;
use tracing_subscriber::EnvFilter;

/// The value of `--log-format`.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Plain lines.
    Text,
    /// One JSON object per line.
    Json,
}

pub(crate) fn init(verbose: u8, quiet: bool, format: LogFormat) {
    let level = match (quiet, verbose) {
        (true, _) => Level::WARN,
        (false, 0) => Level::INFO,
        (false, 1) => Level::DEBUG,
        (false, _) => Level::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_env_filter(EnvFilter::new(format!("warn,diffusion={level}").to_lowercase()));
    match format {
        LogFormat::Text => builder.without_time().with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// Logs an error and its causes as one sentence. Causes whose text is already in the sentence are
/// left out.
pub(crate) fn report(error: &anyhow::Error) {
    let mut message = String::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref::<CandleError>() {
            Some(candle) => without_backtrace(candle),
            None => cause.to_string(),
        };
        let text = text.split("\n   0:").next().unwrap_or_default().trim().to_owned();
        if !message.contains(&text) {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
    }
    tracing::error!("{message}");
}

/// The text of a candle error without its backtrace, which candle adds if `RUST_BACKTRACE` is set.
fn without_backtrace(error: &CandleError) -> String {
    match error {
        CandleError::WithBacktrace { inner, .. } => without_backtrace(inner),
        CandleError::WithPath { inner, path } => {
            format!("{}: {}", path.display(), without_backtrace(inner))
        }
        other => other.to_string(),
    }
}
