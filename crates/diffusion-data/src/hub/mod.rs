//! Downloads the complete MNIST from the Hugging Face hub and turns it back into the four original files.
//!
//! The hub keeps MNIST as two parquet files, one a split, with every digit as a PNG. [`download_mnist`] fetches
//! them into the hub's usual cache, decodes them, reassembles the IDX files `LeCun` published, compares their
//! SHA-256 with the originals' and only then writes them, gzipped, under their usual names. The checksums make
//! the source immaterial: a mirror either has the same digits in the same order or is refused.
//!
//! This module does not print, does not read the environment (the caller fills in [`HubConfig`]; only the HTTP
//! library underneath looks at the usual proxy variables) and does not load the files it wrote.
//!
//! # What an interruption costs
//!
//! hf-hub 1.0 sends no `Range` header: it writes a transfer to `<blob>.incomplete` in its cache, starts that file
//! afresh on the next attempt, and renames it when it is whole. So what is finished is never fetched again (the
//! two splits count separately), what was interrupted is fetched from its beginning, 15 MB at most, and nothing
//! partial is ever taken for whole. hf-hub itself repeats requests answered with 408, 429, 500, 502, 503 or 504
//! and connections that fail; it does not repeat a transfer cut in its middle and has no timeouts, so this module
//! adds both.
//!
//! # Example
//!
//! ```no_run
//! use diffusion_data::hub::{HubConfig, download_mnist};
//!
//! let config = HubConfig::new("/home/me/.cache/huggingface/hub");
//! let report = download_mnist(&config, "data/mnist".as_ref(), &mut |event| println!("{event:?}"))?;
//! println!("{} files written", report.written.len());
//! # Ok::<(), diffusion_data::hub::HubError>(())
//! ```

mod config;
mod decode;
mod error;
mod files;
mod transfer;

use std::path::{Path, PathBuf};

pub use config::{
    DEFAULT_ENDPOINT, HubConfig, IdxFile, MNIST_REPOSITORY, MNIST_REVISION, MnistSource, Split,
};
pub use error::HubError;

use decode::Decoded;

/// What [`download_mnist`] is doing, in the order in which it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The split's parquet file was found in the hub's cache; no request is made for it.
    Cached {
        /// Path of the parquet file inside the repository.
        file: String,
    },
    /// Bytes have arrived.
    Downloading {
        /// Path of the parquet file inside the repository.
        file: String,
        /// Bytes here so far.
        done: u64,
        /// Bytes in all; 0 if the server did not say.
        total: u64,
    },
    /// The transfer broke off and starts again.
    Retrying {
        /// Path of the parquet file inside the repository.
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
    /// One of the four files is verified and in its place.
    Written {
        /// The file.
        path: PathBuf,
    },
}

/// What [`download_mnist`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files written by this call, all verified.
    pub written: Vec<PathBuf>,
    /// Files that were there already and have the right content.
    pub kept: Vec<PathBuf>,
    /// Bytes taken from the network, attempts that failed included.
    pub bytes_received: u64,
}

/// Brings the four MNIST files into the folder `dest`, created if missing.
///
/// A file already there with the right SHA-256 is kept, and if all four are, no request is made. Otherwise every
/// missing or different file is written: to a temporary name in `dest`, synced, renamed. Nothing is written
/// before everything that has to be written is verified.
///
/// # Errors
///
/// See [`HubError`]. Whatever the error, a final name in `dest` holds either what it held before or a verified
/// file.
pub fn download_mnist(
    config: &HubConfig,
    dest: &Path,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Report, HubError> {
    let mut report = Report::default();
    let mut outstanding = Vec::new();
    for split in &config.mnist.splits {
        for file in [&split.images, &split.labels] {
            let path = dest.join(&file.name);
            if files::is_intact(&path, file)? {
                report.kept.push(path);
            } else {
                outstanding.push((split, file));
            }
        }
    }

    let mut ready = Vec::new();
    for split in &config.mnist.splits {
        if outstanding.iter().any(|(of, _)| std::ptr::eq(*of, split)) {
            let decoded = obtain(config, split, &mut report, on_progress)?;
            ready.push((split, decoded));
        }
    }

    if !outstanding.is_empty() {
        files::create_folder(dest)?;
    }
    for (split, decoded) in &ready {
        for (file, content) in [(&split.images, &decoded.images), (&split.labels, &decoded.labels)] {
            if outstanding.iter().any(|(_, missing)| std::ptr::eq(*missing, file)) {
                let path = files::write(dest, file, content)?;
                on_progress(Progress::Written { path: path.clone() });
                report.written.push(path);
            }
        }
    }
    Ok(report)
}

/// The verified content of one split: from the cache if that is good, else from the network.
///
/// A cached file that does not verify is fetched again: hf-hub 1.0 stores the body of a refused `GET` as if it
/// were the file, so a cache may hold such a body since before this program's time.
fn obtain(
    config: &HubConfig,
    split: &Split,
    report: &mut Report,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Decoded, HubError> {
    let cached = transfer::cached(config, split)?;
    if let Some(path) = cached {
        on_progress(Progress::Cached { file: split.parquet.clone() });
        let decoded = decode::split(&path, split, on_progress);
        if decoded.is_ok() || config.offline {
            return decoded;
        }
    }
    if config.offline {
        return Err(HubError::Offline { file: split.parquet.clone() });
    }
    let path = transfer::fetch(config, split, &mut report.bytes_received, on_progress)?;
    decode::split(&path, split, on_progress).inspect_err(|_| transfer::evict(&path))
}
