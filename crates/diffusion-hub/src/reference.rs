//! Downloads the parquet files of any data set of the hub.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

use crate::cache::{self, RepositoryCache};
use crate::client::Client;
use crate::failure::Failure;
use crate::named::PARQUET_REVISION;
use crate::{HubConfig, HubError, Progress, RemoteFile, transfer};

/// A split of a data set on the hub, written as `OWNER/NAME`, `OWNER/NAME:SPLIT` or
/// `OWNER/NAME:CONFIG/SPLIT`.
///
/// ```
/// use diffusion_hub::HubReference;
///
/// let reference: HubReference = "uoft-cs/cifar10:plain_text/test".parse()?;
/// assert_eq!(reference.repository, "uoft-cs/cifar10");
/// assert_eq!(reference.config.as_deref(), Some("plain_text"));
/// assert_eq!(reference.split, "test");
/// assert!("cifar10".parse::<HubReference>().is_err());
/// # Ok::<(), diffusion_hub::HubError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubReference {
    /// Data set repository, `owner/name`.
    pub repository: String,
    /// Configuration. `None`: `default`, or the only one that exists.
    pub config: Option<String>,
    /// Split. Default: `train`.
    pub split: String,
}

impl FromStr for HubReference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let invalid =
            |reason: &str| HubError::Reference { text: text.to_owned(), reason: reason.to_owned() };
        let (repository, part) = text.split_once(':').unwrap_or((text, "train"));
        let (owner, name) =
            repository.split_once('/').ok_or_else(|| invalid("there is no slash"))?;
        let (config, split) = match part.split_once('/') {
            Some((config, split)) => (Some(config), split),
            None => (None, part),
        };
        for word in [owner, name, split].into_iter().chain(config) {
            if word.is_empty() {
                return Err(invalid("a part of it is empty"));
            }
            if !cache::is_name(word) {
                return Err(invalid(
                    "its parts must be letters, digits and - _ . and must not begin with a dot",
                ));
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

/// Downloads the parquet files of a split to the hub's cache and returns their paths, in the order
/// of the shards.
///
/// The list of files is requested each time, so a changed data set is noticed. Files in the cache
/// are not transferred again. Offline, the list and the files come from the cache.
///
/// This function blocks. An asynchronous runtime should call it on a thread for blocking work.
///
/// # Errors
///
/// - If the configuration or split does not exist, or the reference must name a configuration.
/// - If the hub has no such data set, or has not converted it to parquet.
/// - If the configured address is not the address of a hub.
/// - If downloads are switched off and the cache does not contain all files of the split.
/// - If the server cannot be reached, stops sending, has no such file, or answers with an error.
/// - If the transfer was interrupted in every attempt.
/// - If the SHA-256 of a file differs from the announced one.
/// - If a file or folder cannot be read or written.
pub fn fetch_parquet(
    config: &HubConfig,
    reference: &HubReference,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Vec<PathBuf>, HubError> {
    let repository_cache = RepositoryCache::new(&config.cache_dir, &reference.repository);
    if config.offline {
        let missing =
            || HubError::Offline { file: format!("the parquet files of {}", reference.repository) };
        let commit = repository_cache.commit_of(PARQUET_REVISION).ok_or_else(missing)?;
        let names = shards(&repository_cache.listing(&commit), reference, missing)?;
        let cached_path =
            |name: String| match repository_cache.find(&remote(reference, &commit, name)) {
                Some(cached) => Ok(cached.path),
                None => Err(missing()),
            };
        return names.into_iter().map(cached_path).collect();
    }

    let client = Client::new(config)?;
    let (revision, listing) = list_files(&client, &repository_cache, reference, on_progress)?;
    let no_parquet = || HubError::NoParquet {
        endpoint: config.endpoint.clone(),
        repository: reference.repository.clone(),
    };
    let names = shards(&listing, reference, no_parquet)?;
    let mut paths = Vec::new();
    for name in names {
        let file = remote(reference, &revision, name);
        if let Some(cached) = repository_cache.find(&file) {
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

/// The fields that are used of the hub's JSON description of a data set.
#[derive(Deserialize)]
struct DatasetInfo {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The commit of the converted data set, or the branch if the hub names no commit, and the names of
/// the parquet files.
fn list_files(
    client: &Client<'_>,
    repository_cache: &RepositoryCache,
    reference: &HubReference,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<(String, Vec<String>), HubError> {
    let request = format!("the list of files of {}", reference.repository);
    let answer = client.retry(&request, on_progress, |_| {
        let text = client.info(&reference.repository, PARQUET_REVISION)?;
        serde_json::from_slice::<DatasetInfo>(&text).map_err(|error| {
            Failure::InvalidAnswer(format!("its answer is not a list of files: {error}"))
        })
    });
    let info = answer.map_err(|(failure, attempts)| {
        match failure.into_error(
            client.config,
            &remote(reference, PARQUET_REVISION, request),
            attempts,
        ) {
            HubError::NotFound { endpoint, repository, .. } => {
                HubError::NoParquet { endpoint, repository }
            }
            error => error,
        }
    })?;
    let mut names: Vec<_> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    names.retain(|name| config_and_split(name).is_some());
    let Some(commit) = info.sha.filter(|sha| cache::is_name(sha)) else {
        return Ok((PARQUET_REVISION.to_owned(), names));
    };
    repository_cache.store_listing(&commit, &names)?;
    repository_cache.set_branch(PARQUET_REVISION, &commit)?;
    Ok((commit, names))
}

/// The configuration and the split of a parquet file: the folders of `config/split/0000.parquet`.
fn config_and_split(name: &str) -> Option<(&str, &str)> {
    let mut parts = name.strip_suffix(".parquet").filter(|_| cache::stays_inside(name))?.split('/');
    let folders = (parts.next()?, parts.next()?);
    parts.next()?;
    parts.next().is_none().then_some(folders)
}

/// The files of the referenced split, in order.
fn shards(
    names: &[String],
    reference: &HubReference,
    no_parquet: impl Fn() -> HubError,
) -> Result<Vec<String>, HubError> {
    let files = || names.iter().filter_map(|name| Some((name, config_and_split(name)?)));
    let choice = |problem: String, found: BTreeSet<&str>| HubError::Choice {
        repository: reference.repository.clone(),
        problem,
        found: found.into_iter().map(str::to_owned).collect(),
    };
    let configs: BTreeSet<_> = files().map(|(_, (config, _))| config).collect();
    let config = match (&reference.config, configs.first()) {
        (_, None) => return Err(no_parquet()),
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
    let of_config = || files().filter(|(_, (folder, _))| *folder == config);
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
