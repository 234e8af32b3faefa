//! Datasets from the Hugging Face hub.
//!
//! [`download`] brings a [`NamedDataset`] into a folder: it fetches the parquet files into which the hub converts
//! every dataset, decodes their pictures, reassembles the files of the original publication, compares their SHA-256
//! with the originals' where these are known, and only then writes them. [`fetch_parquet`] brings the parquet files
//! of any dataset into the hub's cache, for a reader of parquet.
//!
//! This crate does not print, does not read the environment ([`HubConfig::from_variables`] is given what it may know; only
//! the TLS library underneath looks at `SSL_CERT_FILE` and `SSL_CERT_DIR`) and does not load the files it wrote.
//!
//! # What an interruption costs
//!
//! The hub's cache is the one of its own tools: `blobs/`, `snapshots/` and `refs/` below the cache folder. A transfer
//! gathers in `blobs/<etag>.incomplete`; when it was cut, or the program killed, the next attempt asks for the rest
//! by a `Range` header. A server that ignores the header sends everything again, and a file without a SHA-256
//! (small ones that the hub keeps in git) starts afresh. A finished file is compared with its announced length and
//! SHA-256 before it gets its name, so nothing partial or damaged is ever taken for whole. Two programs that want the same
//! file take turns by a lock.
//!
//! Requests answered with 408, 429, 500, 502, 503 or 504, connections that fail and transfers cut in their middle are
//! repeated, after a pause that doubles, or the one a `Retry-After` header asks for, up to a minute.
//!
//! # Example
//!
//! ```no_run
//! use diffusion_hub::{HubConfig, NamedDataset, download};
//!
//! let config = HubConfig::from_variables(|name| std::env::var(name).ok());
//! let cifar10 = NamedDataset::cifar10();
//! let report = download(&config, &cifar10, "data/cifar10".as_ref(), &mut |event| println!("{event:?}"))?;
//! println!("{} files written", report.written.len());
//! # Ok::<(), diffusion_hub::HubError>(())
//! ```

mod address;
mod cache;
mod client;
mod config;
mod decode;
mod download;
mod error;
mod failure;
mod files;
mod named;
mod proxy;
mod reference;
mod transfer;

use std::path::PathBuf;

pub use config::HubConfig;
pub use download::download;
pub use error::HubError;
pub use named::{Content, NamedDataset, NamedSplit, Output};
pub use reference::{HubReference, fetch_parquet};

use transfer::RemoteFile;

/// What is being done, in the order in which it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The file was found in the hub's cache; no request is made for it.
    Cached {
        /// Path of the parquet file inside the repository.
        file: String,
    },
    /// Another program transfers the same file; this one waits for it.
    Waiting {
        /// Path of the parquet file inside the repository.
        file: String,
    },
    /// Bytes have arrived. The first of these events of an attempt tells how many an earlier one had left.
    Downloading {
        /// Path of the parquet file inside the repository.
        file: String,
        /// Bytes here so far.
        done: u64,
        /// Bytes in all; 0 if the server did not say.
        total: u64,
    },
    /// A request failed, or the transfer broke off and goes on.
    Retrying {
        /// Path of the parquet file inside the repository, or what else was asked for.
        file: String,
        /// Number of the attempt that now begins; the first was 1.
        attempt: usize,
        /// Why the one before failed.
        reason: String,
    },
    /// Pictures have been decoded.
    Decoding {
        /// Path of the parquet file inside the repository.
        file: String,
        /// Pictures decoded so far.
        done: usize,
        /// Pictures in all.
        total: usize,
    },
    /// One of the dataset's files is verified and in its place.
    Written {
        /// The file.
        path: PathBuf,
        /// What vouches for it.
        proof: Proof,
    },
}

/// What vouches for a file, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// Its length and the range of its labels are right; its digest is not known.
    Form,
    /// It was made from a file with the SHA-256 that the hub announced; its own digest is not known.
    Transfer,
    /// Its content is known and is the original's.
    Content,
}

/// What [`download`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Files written by this call, all verified.
    pub written: Vec<PathBuf>,
    /// Files that were there already and have the right content.
    pub kept: Vec<PathBuf>,
    /// Bytes taken from the network, attempts that failed included.
    pub bytes_received: u64,
    /// The commit of the dataset from which files were written, if any were.
    pub commit: Option<String>,
    /// What vouches for the files: the least of what vouches for each.
    pub proof: Option<Proof>,
}

impl Report {
    fn note(&mut self, proof: Proof) {
        self.proof = Some(self.proof.map_or(proof, |least| least.min(proof)));
    }
}
