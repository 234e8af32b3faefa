//! Any dataset of the hub, by the parquet files into which the hub converts it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

use crate::cache::{self, Shelf};
use crate::client::Client;
use crate::failure::Failure;
use crate::named::PARQUET_REVISION;
use crate::{HubConfig, HubError, Progress, RemoteFile, transfer};

/// A split of a dataset on the hub, written `OWNER/NAME`, `OWNER/NAME:SPLIT` or `OWNER/NAME:CONFIG/SPLIT`.
///
/// ```
/// use diffusion_hub::HubReference;
///
/// let reference: HubReference = "uoft-cs/cifar10:plain_text/test".parse()?;
/// assert_eq!(reference.repository, "uoft-cs/cifar10");
/// assert_eq!((reference.config.as_deref(), reference.split.as_str()), (Some("plain_text"), "test"));
/// assert!("cifar10".parse::<HubReference>().is_err());
/// # Ok::<(), diffusion_hub::HubError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubReference {
    /// Dataset repository, `owner/name`.
    pub repository: String,
    /// Configuration; without one, `default` or the only one is meant.
    pub config: Option<String>,
    /// Split; `train` unless the text names one.
    pub split: String,
}

impl FromStr for HubReference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let refuse =
            |reason: &str| HubError::Reference { text: text.to_owned(), reason: reason.to_owned() };
        let (repository, part) = text.split_once(':').unwrap_or((text, "train"));
        let (owner, name) =
            repository.split_once('/').ok_or_else(|| refuse("there is no slash"))?;
        let (config, split) = match part.split_once('/') {
            Some((config, split)) => (Some(config), split),
            None => (None, part),
        };
        for word in [owner, name, split].into_iter().chain(config) {
            if word.is_empty() {
                return Err(refuse("a part of it is empty"));
            }
            if !cache::is_name(word) {
                return Err(refuse("a part of it is no name of letters, digits and - _ ."));
            }
        }
        let config = config.map(str::to_owned);
        Ok(Self { repository: repository.to_owned(), config, split: split.to_owned() })
    }
}

impl fmt::Display for HubReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repository, config, split } = self;
        match config {
            Some(config) => write!(f, "{repository}:{config}/{split}"),
            None => write!(f, "{repository}:{split}"),
        }
    }
}

/// Brings the parquet files of a split into the hub's cache and returns their paths there, shard by shard.
///
/// The list of files is asked for each time, so that a changed dataset is noticed; files the cache holds are not
/// transferred again. Offline, the list and the files are those of the cache.
///
/// Blocks; inside an asynchronous runtime it belongs on a thread for blocking work.
///
/// # Errors
///
/// [`HubError::Choice`] when the configuration or the split does not exist or has to be chosen,
/// [`HubError::NoParquet`] when the hub has no such dataset, and what [`download`](super::download) may answer.
pub fn fetch_parquet(
    config: &HubConfig,
    reference: &HubReference,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Vec<PathBuf>, HubError> {
    let shelf = Shelf::new(&config.cache_dir, &reference.repository);
    if config.offline {
        let missing =
            || HubError::Offline { file: format!("the parquet files of {}", reference.repository) };
        let commit = shelf.commit_of(PARQUET_REVISION).ok_or_else(missing)?;
        let names = shards(&shelf.listing(&commit), reference, missing)?;
        let here = |name: String| match shelf.find(&remote(reference, &commit, name)) {
            Some(cached) => Ok(cached.path),
            None => Err(missing()),
        };
        return names.into_iter().map(here).collect();
    }

    let client = Client::new(config)?;
    let (revision, listing) = list(&client, &shelf, reference, on_progress)?;
    let none = || HubError::NoParquet {
        endpoint: config.endpoint.clone(),
        repository: reference.repository.clone(),
    };
    let names = shards(&listing, reference, none)?;
    let mut paths = Vec::new();
    for name in names {
        let file = remote(reference, &revision, name);
        if let Some(cached) = shelf.find(&file) {
            on_progress(Progress::Cached { file: file.path });
            paths.push(cached.path);
        } else {
            paths.push(transfer::fetch(&client, &file, &mut 0, on_progress)?.path);
        }
    }
    Ok(paths)
}

fn remote(reference: &HubReference, revision: &str, path: String) -> RemoteFile {
    RemoteFile { repository: reference.repository.clone(), revision: revision.to_owned(), path }
}

/// What the hub says of a dataset, as far as it matters here.
#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The commit of the converted dataset, or the branch if the hub does not say, and its parquet files.
fn list(
    client: &Client<'_>,
    shelf: &Shelf,
    reference: &HubReference,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<(String, Vec<String>), HubError> {
    let list = format!("the list of files of {}", reference.repository);
    let answer = client.persist(&list, on_progress, |_| {
        let text = client.info(&reference.repository, PARQUET_REVISION)?;
        serde_json::from_slice::<Info>(&text)
            .map_err(|error| Failure::Answer(format!("it sent no list of files: {error}")))
    });
    let info = answer.map_err(|(failure, attempts)| {
        match failure.into_error(
            client.config,
            &remote(reference, PARQUET_REVISION, list),
            attempts,
        ) {
            HubError::NotFound { endpoint, repository, .. } => {
                HubError::NoParquet { endpoint, repository }
            }
            error => error,
        }
    })?;
    let mut names: Vec<_> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    names.retain(|name| place(name).is_some());
    let Some(commit) = info.sha.filter(|sha| cache::is_name(sha)) else {
        return Ok((PARQUET_REVISION.to_owned(), names));
    };
    shelf.keep_listing(&commit, &names)?;
    shelf.set_branch(PARQUET_REVISION, &commit)?;
    Ok((commit, names))
}

/// Configuration and split of a parquet file: the folders of `config/split/0000.parquet`.
fn place(name: &str) -> Option<(&str, &str)> {
    let mut parts = name.strip_suffix(".parquet").filter(|_| cache::is_below(name))?.split('/');
    let place = (parts.next()?, parts.next()?);
    parts.next()?;
    parts.next().is_none().then_some(place)
}

/// The files of the split that is meant, in order.
fn shards(
    names: &[String],
    reference: &HubReference,
    none: impl Fn() -> HubError,
) -> Result<Vec<String>, HubError> {
    let places = || names.iter().filter_map(|name| Some((name, place(name)?)));
    let choice = |problem: String, found: BTreeSet<&str>| HubError::Choice {
        repository: reference.repository.clone(),
        problem,
        found: found.into_iter().map(str::to_owned).collect(),
    };
    let configs: BTreeSet<_> = places().map(|(_, (config, _))| config).collect();
    let config = match (&reference.config, configs.first()) {
        (_, None) => return Err(none()),
        (Some(config), _) if configs.contains(config.as_str()) => config.as_str(),
        (Some(config), _) => return Err(choice(format!("has no configuration {config}"), configs)),
        (None, _) if configs.contains("default") => "default",
        (None, Some(only)) if configs.len() == 1 => only,
        (None, _) => {
            let problem =
                format!("has several configurations, name one as CONFIG/{}", reference.split);
            return Err(choice(problem, configs));
        }
    };
    let of_config = || places().filter(|(_, (of, _))| *of == config);
    let mut shards: Vec<_> = of_config()
        .filter(|(_, (_, split))| *split == reference.split)
        .map(|(name, _)| name.clone())
        .collect();
    if shards.is_empty() {
        let splits = of_config().map(|(_, (_, split))| split).collect();
        return Err(choice(format!("has no split {} in {config}", reference.split), splits));
    }
    // 10000.parquet comes after 9999.parquet.
    shards.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    Ok(shards)
}
