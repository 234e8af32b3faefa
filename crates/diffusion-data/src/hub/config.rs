//! What to download, from where, and what it must be.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The hub itself; a mirror has its own address.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The dataset repository that holds MNIST.
pub const MNIST_REPOSITORY: &str = "ylecun/mnist";

/// The branch on which the hub keeps every dataset converted to parquet, under names that do not change.
///
/// It is the one candle-datasets asks for, so both share one copy in the cache. It is a branch and not a commit
/// because the four SHA-256 already pin the content, whatever the hub does to the encoding around it.
pub const MNIST_REVISION: &str = "refs/convert/parquet";

/// Everything [`download_mnist`](super::download_mnist) needs to know; plain data, nothing is read from the
/// environment.
#[derive(Clone)]
pub struct HubConfig {
    /// Address of the hub or of a mirror, such as `https://huggingface.co`.
    pub endpoint: String,
    /// The hub's cache folder, usually `~/.cache/huggingface/hub`.
    pub cache_dir: PathBuf,
    /// Access token, sent to `endpoint`; MNIST needs none.
    pub token: Option<String>,
    /// Makes no request: only the cache is consulted.
    pub offline: bool,
    /// How often a failed request, and a transfer cut in its middle, is repeated.
    pub retries: usize,
    /// Delays between repeated requests grow from twice this time, doubling, each shortened at random.
    pub retry_base_delay: Duration,
    /// A connection that delivers nothing for this long is given up.
    pub stall_timeout: Duration,
    /// What to download.
    pub mnist: MnistSource,
}

impl HubConfig {
    /// The official hub without a token, with `cache_dir` as the cache: 4 retries over at most 6 seconds, 30
    /// seconds of patience with a silent server.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            cache_dir: cache_dir.into(),
            token: None,
            offline: false,
            retries: 4,
            retry_base_delay: Duration::from_millis(200),
            stall_timeout: Duration::from_secs(30),
            mnist: MnistSource::default(),
        }
    }
}

// By hand, so that a token never reaches a log.
impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("cache_dir", &self.cache_dir)
            .field("token_set", &self.token.is_some())
            .field("offline", &self.offline)
            .field("retries", &self.retries)
            .field("retry_base_delay", &self.retry_base_delay)
            .field("stall_timeout", &self.stall_timeout)
            .field("mnist", &self.mnist)
            .finish()
    }
}

/// A dataset repository with MNIST's layout: two parquet files that become four IDX files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MnistSource {
    /// Dataset repository, `owner/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The training and the test split.
    pub splits: [Split; 2],
}

impl Default for MnistSource {
    /// The original MNIST: 60,000 training and 10,000 test digits.
    fn default() -> Self {
        let file = |name: &str, sha256: &str| IdxFile { name: name.to_owned(), sha256: sha256.to_owned() };
        Self {
            repository: MNIST_REPOSITORY.to_owned(),
            revision: MNIST_REVISION.to_owned(),
            splits: [
                Split {
                    parquet: "mnist/train/0000.parquet".to_owned(),
                    count: 60_000,
                    images: file(
                        "train-images-idx3-ubyte.gz",
                        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    ),
                    labels: file(
                        "train-labels-idx1-ubyte.gz",
                        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                    ),
                },
                Split {
                    parquet: "mnist/test/0000.parquet".to_owned(),
                    count: 10_000,
                    images: file(
                        "t10k-images-idx3-ubyte.gz",
                        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                    ),
                    labels: file(
                        "t10k-labels-idx1-ubyte.gz",
                        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                    ),
                },
            ],
        }
    }
}

/// One split: where it is in the repository and what comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Path of the parquet file inside the repository.
    pub parquet: String,
    /// Number of digits in it.
    pub count: usize,
    /// The IDX file of the pictures.
    pub images: IdxFile,
    /// The IDX file of the labels.
    pub labels: IdxFile,
}

/// One of the files to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdxFile {
    /// File name, ending in `.gz`.
    pub name: String,
    /// SHA-256 of the *unpacked* file, 64 lower-case hexadecimal digits.
    pub sha256: String,
}
