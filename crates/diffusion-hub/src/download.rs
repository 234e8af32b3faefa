//! A named dataset from the hub into a folder, all or nothing.

use std::path::{Path, PathBuf};

use crate::client::Client;
use crate::decode::{self, Pictures};
use crate::{
    Content, HubConfig, HubError, NamedDataset, NamedSplit, Output, Progress, Proof, RemoteFile,
    Report,
};
use crate::{cache, files, transfer};

/// Brings the files of `dataset` into the folder `dest`, created if missing.
///
/// A file already there with the right content is kept, and if all are, no request is made. Otherwise every
/// missing or different file is written: to a temporary name in `dest`, synced, renamed. Nothing is written
/// before everything that has to be written is verified; [`Report::proof`] says by what.
///
/// Blocks; inside an asynchronous runtime it belongs on a thread for blocking work.
///
/// # Errors
///
/// See [`HubError`]. Whatever the error, a final name in `dest` holds either what it held before or a verified
/// file.
pub fn download(
    config: &HubConfig,
    dataset: &NamedDataset,
    dest: &Path,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Report, HubError> {
    let mut job = Job { config, dataset, report: Report::default(), on_progress };
    let mut ready = Vec::new();
    for split in &dataset.splits {
        let mut missing = Vec::new();
        for output in &split.outputs {
            match present(dataset, split, output, dest)? {
                Some(proof) => job.kept(dest.join(&output.name), proof),
                None => missing.push(output),
            }
        }
        if !missing.is_empty() {
            ready.extend(job.make(split, &missing)?);
        }
    }
    if let Some(name) = &dataset.class_file {
        let list = dataset.class_list().into_bytes();
        if files::content(dest, name, list.len())?.is_some_and(|present| present == list) {
            job.kept(dest.join(name), Proof::Content);
        } else {
            ready.push(Ready { name, content: list, proof: Proof::Content });
        }
    }
    if !ready.is_empty() {
        files::create_folder(dest)?;
    }
    for file in &ready {
        let path = files::write(dest, file.name, &file.content)?;
        (job.on_progress)(Progress::Written { path: path.clone(), proof: file.proof });
        job.report.written.push(path);
        job.report.note(file.proof);
    }
    Ok(job.report)
}

/// A file to write.
struct Ready<'a> {
    name: &'a str,
    content: Vec<u8>,
    proof: Proof,
}

/// What can be said for a file that is there already; nothing if it is missing or wrong.
fn present(
    dataset: &NamedDataset,
    split: &NamedSplit,
    output: &Output,
    dest: &Path,
) -> Result<Option<Proof>, HubError> {
    let length = output.content.len(dataset, split);
    let Some(content) = files::content(dest, &output.name, length)? else { return Ok(None) };
    if output.sha256.is_some() {
        return Ok(files::verify(&content, output).is_ok().then_some(Proof::Content));
    }
    let labels_fit = match output.content {
        Content::Batch { .. } => content
            .iter()
            .step_by(1 + dataset.picture_len())
            .all(|label| usize::from(*label) < dataset.classes.len()),
        Content::IdxImages | Content::IdxLabels => true,
    };
    Ok((content.len() == length && labels_fit).then_some(Proof::Form))
}

struct Job<'a> {
    config: &'a HubConfig,
    dataset: &'a NamedDataset,
    report: Report,
    on_progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Job<'a> {
    fn kept(&mut self, path: PathBuf, proof: Proof) {
        self.report.kept.push(path);
        self.report.note(proof);
    }

    /// The verified content of the `missing` files of a split: from the cache if that is good, else from the network.
    ///
    /// A cached file that does not verify is fetched again: hf-hub 1.0 stores the body of a refused `GET` as if it
    /// were the file, so a cache may hold such a body since before this program's time.
    fn make(
        &mut self,
        split: &NamedSplit,
        missing: &[&'a Output],
    ) -> Result<Vec<Ready<'a>>, HubError> {
        let file = RemoteFile {
            repository: self.dataset.repository.clone(),
            revision: self.dataset.revision.clone(),
            path: split.parquet.clone(),
        };
        let shelf = cache::Shelf::new(&self.config.cache_dir, &file.repository);
        if let Some(cached) = shelf.find(&file) {
            (self.on_progress)(Progress::Cached { file: file.path.clone() });
            let made = check_cached(&cached.path, &file)
                .and_then(|verified| self.decode(split, missing, &cached.path, verified));
            if made.is_ok() || self.config.offline {
                self.report.commit = Some(cached.commit);
                return made;
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
            // With the announced digest it is what the hub holds, if not what is wanted here.
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
    ) -> Result<Vec<Ready<'a>>, HubError> {
        let pictures = decode::split(path, self.dataset, split, self.on_progress)?;
        let proof = if verified { Proof::Transfer } else { Proof::Form };
        missing.iter().map(|output| render(&pictures, output, proof)).collect()
    }
}

fn render<'a>(
    pictures: &Pictures,
    output: &'a Output,
    proof: Proof,
) -> Result<Ready<'a>, HubError> {
    let places = pictures.places(output);
    let content = places
        .map(|content| pictures.render(content))
        .find(|content| files::verify(content, output).is_ok())
        .map_or_else(
            || {
                let content = pictures.render(output.content);
                files::verify(&content, output).map(|()| content)
            },
            Ok,
        )?;
    let proof = if output.sha256.is_some() { Proof::Content } else { proof };
    Ok(Ready { name: &output.name, content, proof })
}

/// Compares a cached file with the digest in its name; `false` if its name is none.
fn check_cached(path: &Path, file: &RemoteFile) -> Result<bool, HubError> {
    let Some(expected) = cache::digest_of_pointer(path) else { return Ok(false) };
    let found = files::sha256_of_file(path).map_err(|error| HubError::io("read", path, error))?;
    if found == expected {
        return Ok(true);
    }
    Err(HubError::Checksum { file: file.path.clone(), expected, found })
}
