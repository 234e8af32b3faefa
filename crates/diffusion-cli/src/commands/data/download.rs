//! `diffusion data download`: complete data sets from the Hugging Face hub.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::builder::PossibleValuesParser;
use diffusion_hub::{
    HubConfig, HubError, HubReference, NamedDataset, Progress, Proof, Report, download,
    fetch_parquet,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::session::usage::bail_usage;

/// Download a complete data set and verify it
#[derive(clap::Args)]
#[command(after_help = "\
Environment:
  HF_ENDPOINT     address of a mirror of https://huggingface.co
  HF_HOME         folder of the hub's cache (HF_HUB_CACHE: the cache itself)
  HF_TOKEN        access token; these data sets need none
  HF_HUB_OFFLINE  1: use only what the cache holds

What is there already and intact is not downloaded again; an interrupted transfer goes on where
it stopped.

Example:
  diffusion data download fashion-mnist
  diffusion train --data data/fashion-mnist")]
pub(crate) struct DownloadArgs {
    /// Which data set
    #[arg(value_parser = PossibleValuesParser::new(NamedDataset::NAMES))]
    name: String,
    /// Folder for its files, created if missing [default: data/NAME]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Downloads what is missing, and says on standard output what is there then.
pub(crate) fn run(args: &DownloadArgs) -> anyhow::Result<ExitCode> {
    let Some(dataset) = NamedDataset::named(&args.name) else {
        bail_usage!(
            "there is no data set `{}`; there are {}",
            args.name,
            NamedDataset::NAMES.join(", ")
        );
    };
    let folder = args.data_dir.clone().unwrap_or_else(|| Path::new("data").join(&dataset.name));
    let config = HubConfig::from_variables(|name| std::env::var(name).ok());
    let report = shown(&config, |show| download(&config, &dataset, &folder, show))
        .map_err(|error| anyhow!("{error}{}", way_out(&error, &dataset)))?;
    println!("{}", summary(&dataset, &folder, &report));
    Ok(ExitCode::SUCCESS)
}

/// Brings the parquet files of a data set into the hub's cache, with the same display.
pub(crate) fn fetch_reference(reference: &HubReference) -> anyhow::Result<Vec<PathBuf>> {
    let config = HubConfig::from_variables(|name| std::env::var(name).ok());
    shown(&config, |show| fetch_parquet(&config, reference, show)).map_err(|error| match error {
        HubError::Offline { .. } => anyhow!("{error}; unset HF_HUB_OFFLINE to fetch them"),
        error => anyhow!(error),
    })
}

/// Does `work` with a display of its progress.
fn shown<T>(
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
    let proof = match report.proof {
        Some(Proof::Content) => "verified by the SHA-256 of their content",
        Some(Proof::Transfer) => "made from files with the SHA-256 that the hub announced",
        Some(Proof::Form) | None => "checked by their length and labels only",
    };
    if report.written.is_empty() {
        return format!(
            "{folder} holds the complete {title} already, {proof}; nothing was downloaded."
        );
    }
    let commit =
        report.commit.as_ref().map(|commit| format!(" from commit {commit}")).unwrap_or_default();
    format!(
        "{folder} holds the complete {title}, {proof} ({} files written{commit}).",
        report.written.len()
    )
}

/// What to do without this source of pictures; ends the error's sentence.
fn way_out(error: &HubError, dataset: &NamedDataset) -> String {
    if !error.concerns_source() {
        return String::new();
    }
    let start = match error {
        HubError::Offline { .. } => "unset HF_HUB_OFFLINE, or go on without a download",
        _ => "to go on without a download",
    };
    format!(
        "; {start}: the digits embedded in the binary need none (leave out --data), or put the files of {} in a \
         folder and pass `--data DIR`",
        dataset.title
    )
}

/// Bars on a terminal, one line a step elsewhere; all of it on standard error.
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
                self.line(&format!("waiting for another program that downloads {file}"));
            }
            Progress::Downloading { file, done, total } => {
                let step = format!("downloading {file} from {}", self.source);
                let from =
                    if done > 0 { format!(", going on after {done} bytes") } else { String::new() };
                self.begin(&step, &from, total, "{bytes}/{total_bytes}");
                self.bar.set_position(done);
            }
            Progress::Retrying { file, attempt, reason } => {
                self.line(&format!("{file} again, attempt {attempt}: {reason}"));
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
            // A kind of event this command does not know yet is no reason to fail.
            _ => {}
        }
    }

    /// Enters a step, unless it is the present one already.
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
        // The template is made of constants that indicatif knows; the plain style stands in all the same.
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

    /// Leaves the bar of the present step as it stands.
    fn finish(&mut self) {
        self.step.clear();
        std::mem::replace(&mut self.bar, ProgressBar::hidden()).abandon();
    }
}
