//! The data sets known by name: their repositories on the hub and the files to write.

/// The branch on which the hub keeps every data set converted to parquet. File names on it do not
/// change.
///
/// candle-datasets uses the same branch, so both share one copy in the cache.
pub(crate) const PARQUET_REVISION: &str = "refs/convert/parquet";

/// A data set of small pictures with classes: its parquet files on the hub, and the files of its
/// original format to write from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedDataset {
    /// Name on the command line, such as `fashion-mnist`.
    pub name: String,
    /// Name in a sentence, such as `Fashion-MNIST`.
    pub title: String,
    /// Data set repository, `owner/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// Column of the encoded pictures. The column of the classes is `label`.
    pub column: String,
    /// Height and width of every picture, in pixels.
    pub side: usize,
    /// 1 for grey pictures, 3 for RGB.
    pub channels: usize,
    /// Names of the classes. A label is an index into this list.
    pub classes: Vec<String>,
    /// Name of the file to write that lists `classes`, one per line. `None`: no such file.
    pub class_file: Option<String>,
    /// The training and the test split.
    pub splits: Vec<NamedSplit>,
}

/// One split: its parquet file in the repository, and the files to write from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSplit {
    /// Path of the parquet file inside the repository.
    pub parquet: String,
    /// Number of pictures in it.
    pub count: usize,
    /// The files to write.
    pub outputs: Vec<Output>,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// File name. If it ends in `.gz`, the file is gzipped.
    pub name: String,
    /// Its content.
    pub content: Content,
    /// SHA-256 of the *unpacked* file as 64 lower-case hexadecimal digits, where it is known.
    pub sha256: Option<String>,
}

/// The content of a file in its original format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An IDX file of shape `(N, H, W)` with the pixels of all pictures.
    IdxImages,
    /// An IDX file of shape `(N,)` with all labels.
    IdxLabels,
    /// `count` pictures, each as one byte for the label and the pixels as planes `(C, H, W)`. They
    /// begin at the picture `first`. If their digest is not the expected one, the batch with that
    /// digest is used, among those that begin at a multiple of `count`.
    Batch {
        /// Index of the first picture in the split.
        first: usize,
        /// Number of pictures.
        count: usize,
    },
}

impl NamedDataset {
    /// The names that [`NamedDataset::named`] accepts.
    pub const NAMES: [&str; 3] = ["mnist", "fashion-mnist", "cifar10"];

    /// The data set with this name; `None` for an unknown name.
    ///
    /// ```
    /// use diffusion_hub::NamedDataset;
    ///
    /// assert_eq!(NamedDataset::named("cifar10"), Some(NamedDataset::cifar10()));
    /// assert_eq!(NamedDataset::named("imagenet"), None);
    /// ```
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "mnist" => Some(Self::mnist()),
            "fashion-mnist" => Some(Self::fashion_mnist()),
            "cifar10" => Some(Self::cifar10()),
            _ => None,
        }
    }

    /// The original MNIST: 60,000 training and 10,000 test digits in four IDX files.
    pub fn mnist() -> Self {
        let classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        let digests = [
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ];
        let source = ("ylecun/mnist", "77f3279092a1c1579b2250db8eafed0ad422088c", "mnist");
        Self::idx(("mnist", "MNIST"), source, classes, digests)
    }

    /// Fashion-MNIST: 60,000 training and 10,000 test pictures of clothes in MNIST's format (Xiao
    /// et al. 2017).
    pub fn fashion_mnist() -> Self {
        let classes = [
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ];
        let digests = [
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ];
        let source = (
            "zalando-datasets/fashion_mnist",
            "531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
            "fashion_mnist",
        );
        Self {
            class_file: Some("classes.txt".to_owned()),
            ..Self::idx(("fashion-mnist", "Fashion-MNIST"), source, classes, digests)
        }
    }

    /// CIFAR-10: 50,000 training and 10,000 test pictures in the batches of its binary version
    /// (Krizhevsky 2009).
    ///
    /// The order of the training batches in the hub's file is not that of their numbers, so each
    /// batch is found by its digest.
    pub fn cifar10() -> Self {
        let digests = [
            "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        ];
        let batch = |name: String, first, digest: &str| Output {
            name,
            content: Content::Batch { first, count: 10_000 },
            sha256: Some(digest.to_owned()),
        };
        let classes = [
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ];
        Self {
            name: "cifar10".to_owned(),
            title: "CIFAR-10".to_owned(),
            repository: "uoft-cs/cifar10".to_owned(),
            revision: "0b2714987fa478483af9968de7c934580d0bb9a2".to_owned(),
            column: "img".to_owned(),
            side: 32,
            channels: 3,
            classes: classes.map(str::to_owned).to_vec(),
            class_file: Some("batches.meta.txt".to_owned()),
            splits: vec![
                NamedSplit {
                    parquet: "plain_text/train-00000-of-00001.parquet".to_owned(),
                    count: 50_000,
                    outputs: (0..5)
                        .map(|i| batch(format!("data_batch_{}.bin", i + 1), i * 10_000, digests[i]))
                        .collect(),
                },
                NamedSplit {
                    parquet: "plain_text/test-00000-of-00001.parquet".to_owned(),
                    count: 10_000,
                    outputs: vec![batch(
                        "test_batch.bin".to_owned(),
                        0,
                        "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
                    )],
                },
            ],
        }
    }

    /// A data set in MNIST's format. `digests` are those of the training pictures, the training
    /// labels, the test pictures and the test labels.
    fn idx(
        (name, title): (&str, &str),
        (repository, revision, config): (&str, &str, &str),
        classes: [&str; 10],
        digests: [&str; 4],
    ) -> Self {
        let split = |split: &str, count, prefix: &str, digests: &[&str]| {
            let output = |name: &str, content, digest: &str| Output {
                name: format!("{prefix}-{name}.gz"),
                content,
                sha256: Some(digest.to_owned()),
            };
            NamedSplit {
                parquet: format!("{config}/{split}-00000-of-00001.parquet"),
                count,
                outputs: vec![
                    output("images-idx3-ubyte", Content::IdxImages, digests[0]),
                    output("labels-idx1-ubyte", Content::IdxLabels, digests[1]),
                ],
            }
        };
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            repository: repository.to_owned(),
            revision: revision.to_owned(),
            column: "image".to_owned(),
            side: 28,
            channels: 1,
            classes: classes.map(str::to_owned).to_vec(),
            class_file: None,
            splits: vec![
                split("train", 60_000, "train", &digests[..2]),
                split("test", 10_000, "t10k", &digests[2..]),
            ],
        }
    }

    /// Bytes of one picture: one per pixel and channel.
    pub(crate) fn picture_len(&self) -> usize {
        self.channels * self.side * self.side
    }

    /// The content of [`NamedDataset::class_file`].
    pub(crate) fn class_list(&self) -> String {
        self.classes.iter().flat_map(|class| [class.as_str(), "\n"]).collect()
    }
}
