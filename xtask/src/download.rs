//! `cargo xtask download`: complete data sets, for which the binary itself is too small.

use std::env;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use diffusion_data::hub::{DEFAULT_ENDPOINT, HubConfig, HubError, Progress, download_mnist};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Download a complete data set and verify it.
#[derive(Debug, Args)]
#[command(after_help = "\
Environment:
  HF_ENDPOINT     address of a mirror of https://huggingface.co
  HF_HOME         folder of the hub's cache (HF_HUB_CACHE: the cache itself)
  HF_TOKEN        access token; MNIST needs none
  HF_HUB_OFFLINE  1: use only what the cache holds

What is there already and intact is not downloaded again; after an interruption only the
transfer that was under way begins afresh.

Example:
  cargo xtask download mnist
  cargo run -p diffusion-cli -- train --data data/mnist")]
pub(crate) struct DownloadArgs {
    /// Which data set.
    #[arg(value_enum)]
    dataset: Dataset,
    /// Folder for its files, created if missing.
    #[arg(long, value_name = "DIR", default_value = "data/mnist")]
    data_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dataset {
    /// 60,000 training and 10,000 test digits: 18 MB to transfer, 11 MB to keep.
    Mnist,
}

/// Runs the chore.
pub(crate) fn run(args: &DownloadArgs) -> Result<()> {
    match args.dataset {
        Dataset::Mnist => mnist(&args.data_dir),
    }
}

fn mnist(folder: &Path) -> Result<()> {
    let config = configure(|name| env::var(name).ok());
    let mut display = Display::new(&config.endpoint);
    let report = download_mnist(&config, folder, &mut |event| display.show(event));
    display.finish();
    let report = report.map_err(|error| anyhow!("{error}{}", way_out(&error)))?;
    let folder = folder.display();
    if report.written.is_empty() {
        println!("{folder} holds the complete MNIST already, verified; nothing was downloaded.");
    } else {
        println!("{folder} holds the complete MNIST, verified ({} files written).", report.written.len());
    }
    Ok(())
}

/// What to do without this source of digits; ends the error's sentence.
fn way_out(error: &HubError) -> String {
    if !error.concerns_source() {
        return String::new();
    }
    let start = match error {
        HubError::Offline { .. } => "unset HF_HUB_OFFLINE, or go on without a download",
        _ => "to go on without a download",
    };
    format!(
        "; {start}: the digits embedded in the binary need none (leave out --data), or put the four MNIST files \
         in a folder and pass `--data DIR`"
    )
}

/// The hub's usual variables; an empty one counts as unset, as it does for the hub's own tools.
fn configure(variable: impl Fn(&str) -> Option<String>) -> HubConfig {
    let get = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let home = || {
        let cache = get("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| get("HOME").map(|home| PathBuf::from(home).join(".cache")));
        // Windows has no HOME.
        let cache = cache.or_else(|| get("USERPROFILE").map(|home| PathBuf::from(home).join(".cache")));
        cache.unwrap_or_else(env::temp_dir).join("huggingface")
    };
    let below_home = || get("HF_HOME").map_or_else(home, PathBuf::from).join("hub");
    let cache_dir = get("HF_HUB_CACHE").map_or_else(below_home, PathBuf::from);
    HubConfig {
        endpoint: get("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
        token: get("HF_TOKEN"),
        offline: get("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
        ..HubConfig::new(cache_dir)
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.trim().to_ascii_lowercase().as_str())
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
        let ci = env::var("CI").is_ok_and(|value| is_true(&value));
        Self {
            source: endpoint.to_owned(),
            bars: io::stderr().is_terminal() && !ci,
            bar: ProgressBar::hidden(),
            step: String::new(),
        }
    }

    fn show(&mut self, event: Progress) {
        match event {
            Progress::Cached { file } => self.line(&format!("found {file} in the cache")),
            Progress::Downloading { file, done, total } => {
                self.begin(
                    &format!("downloading {file} from {}", self.source),
                    total,
                    "{bytes}/{total_bytes}",
                );
                self.bar.set_position(done);
            }
            Progress::Retrying { file, attempt, reason } => {
                self.line(&format!("{file} again, attempt {attempt}: {reason}"));
            }
            Progress::Decoding { file, done, total } => {
                self.begin(&format!("decoding {file}"), total as u64, "{human_pos}/{human_len}");
                self.bar.set_position(done as u64);
            }
            Progress::Written { path } => self.line(&format!("wrote {}", path.display())),
            // A kind of event this chore does not know yet is no reason to fail.
            _ => {}
        }
    }

    /// Enters a step, unless it is the present one already.
    fn begin(&mut self, step: &str, length: u64, counter: &str) {
        if self.step == step {
            return;
        }
        if !self.bars {
            self.line(step);
            step.clone_into(&mut self.step);
            return;
        }
        self.finish();
        step.clone_into(&mut self.step);
        let template = format!("{{msg}} [{{bar:24}}] {counter} {{eta}}");
        // The template is made of constants that indicatif knows; the plain style stands in all the same.
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr())
            .with_style(style.progress_chars("=> "))
            .with_message(step.to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> HubConfig {
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        configure(get)
    }

    #[test]
    fn the_cache_is_where_the_hubs_own_tools_keep_it() {
        let home = ("HOME", "/home/me");
        let cache = |more: &[(&str, &str)]| with(&[&[home], more].concat()).cache_dir;
        assert_eq!(cache(&[]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/c")]), Path::new("/c/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/c")]), Path::new("/hf/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/hub"), ("HF_HOME", "/hf")]), Path::new("/hub"));
        assert_eq!(cache(&[("HF_HOME", "")]), Path::new("/home/me/.cache/huggingface/hub"));
    }

    #[test]
    fn the_other_variables_are_obeyed() {
        let config = with(&[]);
        assert_eq!((config.endpoint.as_str(), config.token, config.offline), (DEFAULT_ENDPOINT, None, false));
        let config = with(&[("HF_ENDPOINT", "http://m"), ("HF_TOKEN", "t"), ("HF_HUB_OFFLINE", "TRUE")]);
        assert_eq!((config.endpoint.as_str(), config.token.as_deref()), ("http://m", Some("t")));
        assert!(config.offline);
        assert!(!with(&[("HF_HUB_OFFLINE", "0")]).offline);
    }
}
