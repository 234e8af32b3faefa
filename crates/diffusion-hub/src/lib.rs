//! Downloads image data sets from the Hugging Face hub, resumes interrupted transfers, and verifies
//! the files.
//!
//! - [`download`] writes a known data set ([`NamedDataset`]) to a folder, as the files of its
//!   original publication. It knows MNIST, Fashion-MNIST and CIFAR-10.
//! - [`fetch_parquet`] downloads the parquet files of any data set ([`HubReference`]) to the hub's
//!   cache and returns their paths.
//! - [`HubConfig`] holds the address of the hub, the cache folder, the token, the proxies and the
//!   timeouts.
//! - [`Progress`] is what both functions report while they work, [`HubError`] is why they fail.
//!
//! This crate does not print and does not load the files that it wrote. It does not read
//! environment variables: [`HubConfig::from_variables`] gets a function that looks them up. Only
//! the TLS library reads `SSL_CERT_FILE` and `SSL_CERT_DIR`.
//!
//! ```no_run
//! use diffusion_hub::{HubConfig, NamedDataset, download};
//!
//! let config = HubConfig::from_variables(|name| std::env::var(name).ok());
//! let dataset = NamedDataset::cifar10();
//! let report = download(&config, &dataset, "data/cifar10".as_ref(), &mut |event| {
//!     println!("{event:?}");
//! })?;
//! println!("{} files written", report.written.len());
//! # Ok::<(), diffusion_hub::HubError>(())
//! ```
//!
//! # Where the files come from
//!
//! The hub stores every data set as parquet files. [`download`] fetches those of a named data set,
//! decodes their pictures, and restores the original files. It compares the SHA-256 of each file
//! with the original's, where that is known, before it writes any.
//!
//! # Interrupted transfers
//!
//! The cache has the layout of the hub's own tools: `blobs/`, `snapshots/` and `refs/` in the
//! folder of a repository. A transfer writes to `blobs/<etag>.incomplete`. After an interruption
//! the next attempt requests the remaining bytes with a `Range` header. The transfer restarts from
//! the beginning if the server ignores that header, or if the hub announces no SHA-256, as for
//! small files that it keeps in git. A file gets its final name only after its length and SHA-256
//! were compared with the announced ones. A lock prevents two programs from transferring the same
//! file at the same time.
//!
//! A request is repeated after a status of 408, 429, 500, 502, 503 or 504, after a failed
//! connection, and after an interrupted transfer. The pause before a repetition doubles each time;
//! a `Retry-After` header can prolong it. It is at most one minute.

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

/// An event of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The file was found in the hub's cache. No request is made for it.
    Cached {
        /// Path of the parquet file inside the repository.
        file: String,
    },
    /// Another program is transferring the same file. This one waits for it.
    Waiting {
        /// Path of the parquet file inside the repository.
        file: String,
    },
    /// Bytes have arrived. The first such event of an attempt gives the number of bytes that an
    /// earlier attempt has left.
    Downloading {
        /// Path of the parquet file inside the repository.
        file: String,
        /// Bytes received so far, those of earlier attempts included.
        done: u64,
        /// Bytes of the whole file; 0 if the server did not announce them.
        total: u64,
    },
    /// A request failed or a transfer was interrupted. It is tried again.
    Retrying {
        /// Path of the parquet file inside the repository, or a description of the request.
        file: String,
        /// Number of the attempt that begins now; the first one is 1.
        attempt: usize,
        /// Why the attempt before failed.
        reason: String,
    },
    /// Pictures have been decoded.
    Decoding {
        /// Path of the parquet file inside the repository.
        file: String,
        /// Pictures decoded so far.
        done: usize,
        /// Pictures in the file.
        total: usize,
    },
    /// One of the data set's files was verified and written.
    Written {
        /// Path of the file.
        path: PathBuf,
        /// How it was verified.
        verification: Verification,
    },
}

/// How a file was verified, from the weakest check to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verification {
    /// The length and the range of the labels are right. No digest was known.
    Format,
    /// It was made from a file with the SHA-256 that the hub announced. Its own digest is not
    /// known.
    Transfer,
    /// The content is that of the original file.
    Content,
}

/// The result of [`download`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Files written by this call, all verified.
    pub written: Vec<PathBuf>,
    /// Files that existed with the right content, and were not written.
    pub kept: Vec<PathBuf>,
    /// Bytes received from the network, including those of failed attempts.
    pub bytes_received: u64,
    /// The commit of the data set, if files were written.
    pub commit: Option<String>,
    /// The weakest verification of all files.
    pub verification: Option<Verification>,
}

impl Report {
    fn add_verification(&mut self, verification: Verification) {
        self.verification =
            Some(self.verification.map_or(verification, |weakest| weakest.min(verification)));
    }
}
