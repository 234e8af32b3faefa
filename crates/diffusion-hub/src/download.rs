//! Downloads a named data set to a folder.

use std::path::{Path, PathBuf};

use crate::client::Client;
use crate::decode::{self, Pictures};
use crate::{
    Content, HubConfig, HubError, NamedDataset, NamedSplit, Output, Progress, RemoteFile, Report,
    Verification,
};
use crate::{cache, files, transfer};

/// Downloads the files of `dataset` to the folder `dest`, which is created if missing.
///
/// Existing files with the right content are kept. If all files exist, no request is made. Missing
/// and different files are written only after all of them were verified
/// ([`Report::verification`]). Each is written under a temporary name in `dest`, synced and
/// renamed.
///
/// This function blocks. An asynchronous runtime should call it on a thread for blocking work.
///
/// # Errors
///
/// - If the configured address is not the address of a hub.
/// - If downloads are switched off and a parquet file is not in the cache.
/// - If the server cannot be reached, stops sending, has no such file, or answers with an error.
/// - If the transfer was interrupted in every attempt.
/// - If a parquet file is damaged, or has other rows or pictures than expected.
/// - If a SHA-256 differs from the expected one.
/// - If a file or folder cannot be read or written.
///
/// After an error, each file in `dest` is either as before or verified.
pub fn download(
    config: &HubConfig,
    dataset: &NamedDataset,
    dest: &Path,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Report, HubError> {
    let mut job = Job { config, dataset, report: Report::default(), on_progress };
    let mut verified_files = Vec::new();
    for split in &dataset.splits {
        let mut missing = Vec::new();
        for output in &split.outputs {
            match check_existing(dataset, split, output, dest)? {
                Some(verification) => job.keep(dest.join(&output.name), verification),
                None => missing.push(output),
            }
        }
        if !missing.is_empty() {
            verified_files.extend(job.obtain(split, &missing)?);
        }
    }
    if let Some(name) = &dataset.class_file {
        let list = dataset.class_list().into_bytes();
        if files::read_unpacked(dest, name, list.len())?.is_some_and(|existing| existing == list) {
            job.keep(dest.join(name), Verification::Content);
        } else {
            verified_files.push(VerifiedFile {
                name,
                content: list,
                verification: Verification::Content,
            });
        }
    }
    if !verified_files.is_empty() {
        files::create_folder(dest)?;
    }
    for file in &verified_files {
        let path = files::write(dest, file.name, &file.content)?;
        (job.on_progress)(Progress::Written {
            path: path.clone(),
            verification: file.verification,
        });
        job.report.written.push(path);
        job.report.add_verification(file.verification);
    }
    Ok(job.report)
}

/// A file that was verified and can be written.
struct VerifiedFile<'a> {
    name: &'a str,
    content: Vec<u8>,
    verification: Verification,
}

/// How an existing file is verified; `None` if it is missing or wrong.
fn check_existing(
    dataset: &NamedDataset,
    split: &NamedSplit,
    output: &Output,
    dest: &Path,
) -> Result<Option<Verification>, HubError> {
    let length = output.content.len(dataset, split);
    let Some(content) = files::read_unpacked(dest, &output.name, length)? else { return Ok(None) };
    if output.sha256.is_some() {
        return Ok(files::verify(&content, output).is_ok().then_some(Verification::Content));
    }
    let labels_fit = match output.content {
        Content::Batch { .. } => content
            .iter()
            .step_by(1 + dataset.picture_len())
            .all(|label| usize::from(*label) < dataset.classes.len()),
        Content::IdxImages | Content::IdxLabels => true,
    };
    Ok((content.len() == length && labels_fit).then_some(Verification::Format))
}

/// A download in progress.
struct Job<'a> {
    config: &'a HubConfig,
    dataset: &'a NamedDataset,
    report: Report,
    on_progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Job<'a> {
    fn keep(&mut self, path: PathBuf, verification: Verification) {
        self.report.kept.push(path);
        self.report.add_verification(verification);
    }

    /// The verified contents of the `missing` files of a split, from the cache if possible,
    /// otherwise from the network.
    ///
    /// A bad file in the cache is downloaded again. hf-hub 1.0 stores the body of a refused `GET`
    /// as if it were the file, so a cache that it used may hold such bodies.
    fn obtain(
        &mut self,
        split: &NamedSplit,
        missing: &[&'a Output],
    ) -> Result<Vec<VerifiedFile<'a>>, HubError> {
        let file = RemoteFile {
            repository: self.dataset.repository.clone(),
            revision: self.dataset.revision.clone(),
            path: split.parquet.clone(),
        };
        let repository_cache =
            cache::RepositoryCache::new(&self.config.cache_dir, &file.repository);
        if let Some(cached) = repository_cache.find(&file) {
            (self.on_progress)(Progress::Cached { file: file.path.clone() });
            let result = check_cached(&cached.path, &file)
                .and_then(|verified| self.decode(split, missing, &cached.path, verified));
            if result.is_ok() || self.config.offline {
                self.report.commit = Some(cached.commit);
                return result;
            }
        }
        if self.config.offline {
            return Err(HubError::Offline { file: file.path });
        }
        let client = Client::new(self.config)?;
        let received = &mut self.report.bytes_received;
        let fetched = transfer::fetch(&client, &file, received, self.on_progress)?;
        self.report.commit = Some(fetched.commit);
        self.decode(split, missing, &fetched.path, fetched.verified).inspect_err(|_| {
            // A file with the announced digest is the hub's own, so a new transfer would not help.
            if !fetched.verified {
                cache::evict(&fetched.path);
            }
        })
    }

    fn decode(
        &mut self,
        split: &NamedSplit,
        missing: &[&'a Output],
        path: &Path,
        verified: bool,
    ) -> Result<Vec<VerifiedFile<'a>>, HubError> {
        let pictures = decode::decode_split(path, self.dataset, split, self.on_progress)?;
        let verification = if verified { Verification::Transfer } else { Verification::Format };
        missing.iter().map(|output| render(&pictures, output, verification)).collect()
    }
}

/// The content of an output file, found among the candidates by its digest where one is known.
fn render<'a>(
    pictures: &Pictures,
    output: &'a Output,
    verification: Verification,
) -> Result<VerifiedFile<'a>, HubError> {
    let candidates = pictures.candidates(output);
    let content = candidates
        .map(|content| pictures.render(content))
        .find(|content| files::verify(content, output).is_ok())
        .map_or_else(
            || {
                let content = pictures.render(output.content);
                files::verify(&content, output).map(|()| content)
            },
            Ok,
        )?;
    let verification = if output.sha256.is_some() { Verification::Content } else { verification };
    Ok(VerifiedFile { name: &output.name, content, verification })
}

/// Compares a cached file with the digest that is its name. Returns false if its name is no digest.
fn check_cached(path: &Path, file: &RemoteFile) -> Result<bool, HubError> {
    let Some(expected) = cache::digest_of_pointer(path) else { return Ok(false) };
    let found = files::sha256_of_file(path).map_err(|error| HubError::io("read", path, error))?;
    if found == expected {
        return Ok(true);
    }
    Err(HubError::Checksum { file: file.path.clone(), expected, found })
}
