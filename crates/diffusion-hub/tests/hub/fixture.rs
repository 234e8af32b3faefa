//! Synthetic digits in the hub's format, and a hub that serves them.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diffusion_hub::{HubConfig, HubError, NamedDataset, Report, download};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::mirror::{Mirror, Reply, Request};

pub(crate) const SPLITS: [&str; 2] = ["train", "test"];

/// The pictures and labels of one split.
#[derive(Clone)]
pub(crate) struct Digits {
    pub(crate) pixels: Vec<u8>,
    pub(crate) labels: Vec<u8>,
}

impl Digits {
    /// `count` different pictures.
    pub(crate) fn synthetic(count: usize, salt: usize) -> Self {
        let pixels =
            (0..count * 784).map(|i| ((i * 31 + i / 784 * 7 + salt) % 256) as u8).collect();
        Self { pixels, labels: (0..count).map(|i| ((i + salt) % 10) as u8).collect() }
    }

    pub(crate) fn images_idx(&self) -> Vec<u8> {
        let mut idx = vec![0, 0, 8, 3];
        for size in [self.labels.len() as u32, 28, 28] {
            idx.extend(size.to_be_bytes());
        }
        idx.extend(&self.pixels);
        idx
    }

    pub(crate) fn labels_idx(&self) -> Vec<u8> {
        let mut idx = vec![0, 0, 8, 1];
        idx.extend((self.labels.len() as u32).to_be_bytes());
        idx.extend(&self.labels);
        idx
    }

    pub(crate) fn parquet(&self) -> Vec<u8> {
        parquet("image", self.pixels.chunks(784).map(|p| png(p, 28, 1)), &self.labels)
    }
}

/// A parquet file with the columns and encodings of the hub's own conversion.
pub(crate) fn parquet(
    column: &str,
    pictures: impl Iterator<Item = Vec<u8>>,
    labels: &[u8],
) -> Vec<u8> {
    let schema = format!(
        "message schema {{
            optional group {column} {{ optional binary bytes; optional binary path (UTF8); }}
            optional int64 label;
        }}"
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties =
        WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let count = labels.len();

    let pictures: Vec<ByteArray> = pictures.map(ByteArray::from).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&pictures, Some(&vec![2; count]), None).unwrap();
    column.close().unwrap();
    // The hub's conversion leaves the paths null.
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![1; count]), None).unwrap();
    column.close().unwrap();
    let labels: Vec<i64> = labels.iter().map(|&label| i64::from(label)).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; count]), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

/// A PNG of interleaved pixels.
pub(crate) fn png(pixels: &[u8], side: u32, channels: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(if channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(crate) fn gunzip(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

/// The sorted names in a folder; empty if there is no folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Synthetic digits, a temporary cache, and an empty folder for the result.
pub(crate) struct Fixture {
    pub(crate) digits: [Digits; 2],
    pub(crate) parquet: [Vec<u8>; 2],
    pub(crate) folder: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let digits = [Digits::synthetic(30, 0), Digits::synthetic(12, 5)];
        let parquet = [digits[0].parquet(), digits[1].parquet()];
        Self { digits, parquet, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn dest(&self) -> std::path::PathBuf {
        self.folder.path().join("mnist")
    }

    /// A configuration with this server and short pauses.
    pub(crate) fn config(&self, endpoint: &str) -> HubConfig {
        HubConfig {
            endpoint: endpoint.to_owned(),
            retry_base_delay: Duration::from_millis(1),
            ..HubConfig::new(self.folder.path().join("cache"))
        }
    }

    /// MNIST with the counts and digests of these digits.
    pub(crate) fn mnist(&self) -> NamedDataset {
        let mut mnist = NamedDataset::mnist();
        self.adapt(&mut mnist);
        mnist
    }

    /// Sets the counts and digests of a data set in MNIST's format to those of these digits.
    pub(crate) fn adapt(&self, dataset: &mut NamedDataset) {
        for (split, digits) in dataset.splits.iter_mut().zip(&self.digits) {
            split.count = digits.labels.len();
            split.outputs[0].sha256 = Some(sha256(&digits.images_idx()));
            split.outputs[1].sha256 = Some(sha256(&digits.labels_idx()));
        }
    }

    /// Downloads the digits from that server.
    pub(crate) fn download(&self, config: &HubConfig) -> Result<Report, HubError> {
        download(config, &self.mnist(), &self.dest(), &mut |_| ())
    }

    /// A hub that answers with `special` where that returns an answer, otherwise as the real hub.
    pub(crate) fn hub(
        &self,
        special: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Mirror {
        let files = SPLITS.map(|split| format!("mnist/{split}-00000-of-00001.parquet"));
        let files = files.into_iter().zip(self.parquet.clone()).collect();
        serve("ylecun/mnist", files, special)
    }
}

/// The commit of every synthetic data set.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one data set. It answers with `special` where that returns an answer, otherwise as
/// the real hub.
pub(crate) fn serve(
    repository: &str,
    files: Vec<(String, Vec<u8>)>,
    special: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
) -> Mirror {
    let repository = repository.to_owned();
    Mirror::start(move |request, nth| {
        special(request, nth).unwrap_or_else(|| answer(request, &repository, &files))
    })
}

/// The answer of the real hub: the file's address redirects to a storage server, and the
/// redirection describes the file.
fn answer(request: &Request, repository: &str, files: &[(String, Vec<u8>)]) -> Reply {
    if request.path == format!("/api/datasets/{repository}/revision/refs%2Fconvert%2Fparquet") {
        let siblings: Vec<_> =
            files.iter().map(|(name, _)| format!(r#"{{"rfilename":"{name}"}}"#)).collect();
        let body = format!(
            r#"{{"id":"{repository}","sha":"{COMMIT}","siblings":[{}]}}"#,
            siblings.join(",")
        );
        return Reply::Whole(
            200,
            vec![("Content-Type", "application/json".to_owned())],
            body.into_bytes(),
        );
    }
    for (name, file) in files {
        let resolved = request.path.strip_prefix(&format!("/datasets/{repository}/resolve/"));
        let revision = resolved.and_then(|rest| rest.strip_suffix(&format!("/{name}")));
        if let Some(revision) = revision.filter(|revision| !revision.contains('/')) {
            // A commit is its own commit; every branch is at `COMMIT`.
            let commit = if revision.len() == 40 { revision } else { COMMIT };
            let host = request.header("host").unwrap();
            let headers = vec![
                ("Location", format!("http://{host}/store/{name}")),
                ("X-Repo-Commit", commit.to_owned()),
                ("X-Linked-Etag", format!("\"{}\"", sha256(file))),
                ("X-Linked-Size", file.len().to_string()),
            ];
            return Reply::Whole(302, headers, b"Found. Redirecting to the store".to_vec());
        }
        if request.path == format!("/store/{name}") {
            return Reply::File(file.clone());
        }
    }
    Reply::Whole(404, vec![], Vec::new())
}
