//! A few made-up digits as the hub keeps them, and a hub that serves them.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diffusion_data::hub::{HubConfig, MnistSource};
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
    /// `count` pictures no two of which are alike.
    pub(crate) fn made_up(count: usize, salt: usize) -> Self {
        let pixels = (0..count * 784).map(|i| ((i * 31 + i / 784 * 7 + salt) % 256) as u8).collect();
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

    /// The columns and encodings of the hub's own conversion.
    pub(crate) fn parquet(&self) -> Vec<u8> {
        let schema = "message schema {
            optional group image { optional binary bytes; optional binary path (UTF8); }
            optional int64 label;
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties =
            WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let count = self.labels.len();

        let pictures: Vec<ByteArray> = self.pixels.chunks(784).map(|p| ByteArray::from(png(p))).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&pictures, Some(&vec![2; count]), None).unwrap();
        column.close().unwrap();
        // The hub's conversion leaves the paths null.
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![1; count]), None).unwrap();
        column.close().unwrap();
        let labels: Vec<i64> = self.labels.iter().map(|&label| i64::from(label)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; count]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.into_inner().unwrap()
    }
}

fn png(pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 28, 28);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(crate) fn gunzip(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The names in a folder, sorted; none if there is no folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Made-up digits, a temporary cache, and an empty folder for the result.
pub(crate) struct Fixture {
    pub(crate) digits: [Digits; 2],
    pub(crate) parquet: [Vec<u8>; 2],
    pub(crate) folder: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let digits = [Digits::made_up(30, 0), Digits::made_up(12, 5)];
        let parquet = [digits[0].parquet(), digits[1].parquet()];
        Self { digits, parquet, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn dest(&self) -> std::path::PathBuf {
        self.folder.path().join("mnist")
    }

    /// The default configuration with quick repetitions, the digests of these digits and this server.
    pub(crate) fn config(&self, endpoint: &str) -> HubConfig {
        let mut mnist = MnistSource::default();
        for (split, digits) in mnist.splits.iter_mut().zip(&self.digits) {
            split.count = digits.labels.len();
            split.images.sha256 = sha256(&digits.images_idx());
            split.labels.sha256 = sha256(&digits.labels_idx());
        }
        HubConfig {
            endpoint: endpoint.to_owned(),
            retry_base_delay: Duration::from_millis(1),
            mnist,
            ..HubConfig::new(self.folder.path().join("cache"))
        }
    }

    /// A hub that answers with `odd` where that has an answer, and otherwise as the real one does.
    pub(crate) fn hub(
        &self,
        odd: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Mirror {
        let files = self.parquet.clone();
        Mirror::start(move |request, nth| odd(request, nth).unwrap_or_else(|| answer(request, &files)))
    }
}

/// The hub's own way: the file's address redirects to a store, and the redirection describes the file.
pub(crate) fn answer(request: &Request, files: &[Vec<u8>; 2]) -> Reply {
    for (split, file) in SPLITS.iter().zip(files) {
        let at_hub =
            format!("/datasets/ylecun/mnist/resolve/refs%2Fconvert%2Fparquet/mnist/{split}/0000.parquet");
        if request.path == at_hub {
            let host = request.header("host").unwrap();
            let headers = vec![
                ("Location", format!("http://{host}/store/{split}")),
                ("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567".to_owned()),
                ("X-Linked-Etag", format!("\"{}\"", sha256(file))),
                ("X-Linked-Size", file.len().to_string()),
            ];
            return Reply::Whole(302, headers, Vec::new());
        }
        if request.path == format!("/store/{split}") {
            return Reply::Whole(200, vec![], file.clone());
        }
    }
    Reply::Whole(404, vec![], Vec::new())
}
