//! `diffusion data download`: complete data sets from the Hugging Face hub.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::builder::PossibleValuesParser;
use diffusion_hub::{
    HubConfig, HubError, HubReference, NamedDataset, Progress, Report, Verification, download,
    fetch_parquet,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::session::usage::bail_usage;

/// Download a complete data set and verify it
///
/// The training and test pictures come from the Hugging Face hub and are written as files of the
/// original format: IDX files for mnist and fashion-mnist, binary batches for cifar10. The files
/// are verified by their SHA-256 digests where those are known. Intact files are not downloaded
/// again; an interrupted transfer continues where it stopped.
#[derive(clap::Args)]
#[command(after_help = "\
Environment:
  HF_ENDPOINT     address of a mirror of https://huggingface.co
  HF_HOME         folder of the hub's cache (HF_HUB_CACHE: the cache itself)
  HF_TOKEN        access token; these data sets need none
  HF_HUB_OFFLINE  1: use only files in the cache

Example:
  diffusion data download fashion-mnist
  diffusion train --data data/fashion-mnist")]
pub(crate) struct DownloadArgs {
    /// Data set to download
    #[arg(value_parser = PossibleValuesParser::new(NamedDataset::NAMES))]
    name: String,
    /// Write the files to this folder; it is created if missing [default: data/NAME]
    ///
    /// `train --data NAME` finds the data set in the default folder.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Downloads the missing files and prints a summary.
pub(crate) fn run(args: &DownloadArgs) -> anyhow::Result<ExitCode> {
    let Some(dataset) = NamedDataset::named(&args.name) else {
        bail_usage!("unknown data set `{}`; known: {}", args.name, NamedDataset::NAMES.join(", "));
    };
    let folder = args.data_dir.clone().unwrap_or_else(|| Path::new("data").join(&dataset.name));
    let config = HubConfig::from_variables(|name| std::env::var(name).ok());
    let report = with_display(&config, |show| download(&config, &dataset, &folder, show))
        .map_err(|error| anyhow!("{error}{}", advice(&error, &dataset)))?;
    println!("{}", summary(&dataset, &folder, &report));
    Ok(ExitCode::SUCCESS)
}

/// Downloads the parquet files of a data set to the hub's cache and shows the progress.
pub(crate) fn fetch_reference(reference: &HubReference) -> anyhow::Result<Vec<PathBuf>> {
    let config = HubConfig::from_variables(|name| std::env::var(name).ok());
    with_display(&config, |show| fetch_parquet(&config, reference, show)).map_err(|error| {
        match error {
            HubError::Offline { .. } => anyhow!("{error}; unset HF_HUB_OFFLINE to fetch them"),
            error => anyhow!(error),
        }
    })
}

/// Runs `work` and shows its progress.
fn with_display<T>(
    config: &HubConfig,
    work: impl FnOnce(&mut dyn FnMut(Progress)) -> Result<T, HubError>,
) -> Result<T, HubError> {
    let mut display = Display::new(&config.endpoint);
    let result = work(&mut |event| display.show(event));
    display.finish();
    result
}

fn summary(dataset: &NamedDataset, folder: &Path, report: &Report) -> String {
    let (folder, title) = (folder.display(), &dataset.title);
    let verification = match report.verification {
        Some(Verification::Content) => "verified by the SHA-256 of the content",
        Some(Verification::Transfer) => "made from files with the SHA-256 announced by the hub",
        Some(Verification::Format) | None => "checked by length and labels only",
    };
    if report.written.is_empty() {
        return format!(
            "{folder} already contains the complete {title}, {verification}; nothing was downloaded."
        );
    }
    let commit =
        report.commit.as_ref().map(|commit| format!(" from commit {commit}")).unwrap_or_default();
    format!(
        "{folder} contains the complete {title}, {verification} ({} files written{commit}).",
        report.written.len()
    )
}

/// The end of the error's sentence: how to train without this download.
fn advice(error: &HubError, dataset: &NamedDataset) -> String {
    if !error.concerns_source() {
        return String::new();
    }
    let start = match error {
        HubError::Offline { .. } => "unset HF_HUB_OFFLINE, or continue without a download",
        _ => "to continue without a download",
    };
    format!(
        "; {start}: the digits embedded in the binary need none (leave out --data), or put the \
         files of {} in a folder and pass `--data DIR`",
        dataset.title
    )
}

/// Progress on standard error: bars on a terminal, otherwise one line per step.
struct Display {
    source: String,
    bars: bool,
    bar: ProgressBar,
    step: String,
}

impl Display {
    fn new(endpoint: &str) -> Self {
        let ci = std::env::var_os("CI").is_some();
        Self {
            source: endpoint.to_owned(),
            bars: std::io::stderr().is_terminal() && !ci,
            bar: ProgressBar::hidden(),
            step: String::new(),
        }
    }

    fn show(&mut self, event: Progress) {
        match event {
            Progress::Cached { file } => self.line(&format!("found {file} in the cache")),
            Progress::Waiting { file } => {
                self.line(&format!("waiting for another program to download {file}"));
            }
            Progress::Downloading { file, done, total } => {
                let step = format!("downloading {file} from {}", self.source);
                let from =
                    if done > 0 { format!(", continuing at byte {done}") } else { String::new() };
                self.begin(&step, &from, total, "{bytes}/{total_bytes}");
                self.bar.set_position(done);
            }
            Progress::Retrying { file, attempt, reason } => {
                self.line(&format!("retrying {file}, attempt {attempt}: {reason}"));
            }
            Progress::Decoding { file, done, total } => {
                self.begin(
                    &format!("decoding {file}"),
                    "",
                    total as u64,
                    "{human_pos}/{human_len}",
                );
                self.bar.set_position(done as u64);
            }
            Progress::Written { path, .. } => self.line(&format!("wrote {}", path.display())),
            // Unknown events are ignored.
            _ => {}
        }
    }

    /// Starts to show a step, unless it is the current one.
    fn begin(&mut self, step: &str, from: &str, length: u64, counter: &str) {
        if self.step == step {
            return;
        }
        if !self.bars {
            self.line(&format!("{step}{from}"));
            step.clone_into(&mut self.step);
            return;
        }
        self.finish();
        step.clone_into(&mut self.step);
        let template = format!("{{msg}} [{{bar:24}}] {counter} {{eta}}");
        // The template consists of valid constants, so the fallback is never used.
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr())
            .with_style(style.progress_chars("=> "))
            .with_message(format!("{step}{from}"));
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn line(&mut self, text: &str) {
        self.finish();
        eprintln!("{text}");
    }

    /// Ends the current step and leaves its bar on the screen.
    fn finish(&mut self) {
        self.step.clear();
        std::mem::replace(&mut self.bar, ProgressBar::hidden()).abandon();
    }
}
