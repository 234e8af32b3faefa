//! Data sets of the hub by reference.

use std::path::PathBuf;

use diffusion_hub::{HubConfig, HubError, HubReference, fetch_parquet};
use tempfile::TempDir;

use crate::fixture::serve;
use crate::mirror::{Mirror, Reply};

/// A hub with the data set `me/things`, and a cache. Each file contains its own name.
struct TestDataset {
    hub: Mirror,
    folder: TempDir,
}

impl TestDataset {
    fn new(files: &[&str]) -> Self {
        let files =
            files.iter().map(|name| ((*name).to_owned(), name.as_bytes().to_vec())).collect();
        Self { hub: serve("me/things", files, |_, _| None), folder: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> HubConfig {
        HubConfig { endpoint: self.hub.url(), ..HubConfig::new(self.folder.path()) }
    }

    fn fetch(&self, reference: &str) -> Result<Vec<PathBuf>, HubError> {
        fetch_parquet(&self.config(), &reference.parse()?, &mut |_| ())
    }

    /// The contents of the fetched files.
    fn contents(&self, reference: &str) -> Vec<String> {
        let paths = self.fetch(reference).unwrap();
        paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
    }
}

const TWO_CONFIGS: [&str; 6] = [
    "small/train/0001.parquet",
    "small/train/0000.parquet",
    "small/test/0000.parquet",
    "large/train/0000.parquet",
    "README.md",
    "large/train/extra/0000.parquet",
];

#[test]
fn shards_of_the_named_configuration_and_split_come_in_order() {
    let dataset = TestDataset::new(&TWO_CONFIGS);
    let train = ["small/train/0000.parquet", "small/train/0001.parquet"];
    assert_eq!(dataset.contents("me/things:small/train"), train);
    assert_eq!(dataset.contents("me/things:small/test"), ["small/test/0000.parquet"]);
    assert_eq!(dataset.contents("me/things:large/train"), ["large/train/0000.parquet"]);
    let request_count = dataset.hub.requests().len();
    assert_eq!(dataset.contents("me/things:small/train"), train);
    assert_eq!(dataset.hub.requests().len(), request_count + 1, "only the list is requested again");
    let paths = dataset.fetch("me/things:small/train").unwrap();
    assert_eq!(paths[0].parent(), paths[1].parent());
}

#[test]
fn without_a_name_the_default_or_the_only_configuration_is_used() {
    let only = TestDataset::new(&["odd/train/0000.parquet"]);
    assert_eq!(only.contents("me/things"), ["odd/train/0000.parquet"]);
    let default = TestDataset::new(&["a/train/0000.parquet", "default/train/0000.parquet"]);
    assert_eq!(default.contents("me/things"), ["default/train/0000.parquet"]);
}

#[test]
fn a_missing_configuration_or_split_is_an_error_that_lists_the_existing_ones() {
    let dataset = TestDataset::new(&TWO_CONFIGS);
    for (reference, answer) in [
        (
            "me/things",
            "the dataset me/things has several configurations, name one as CONFIG/train; it has \
             large, small",
        ),
        (
            "me/things:huge/train",
            "the dataset me/things has no configuration huge; it has large, small",
        ),
        (
            "me/things:small/dev",
            "the dataset me/things has no split dev in small; it has test, train",
        ),
    ] {
        assert_eq!(dataset.fetch(reference).unwrap_err().to_string(), answer);
    }
}

#[test]
fn offline_uses_the_cache_if_it_holds_all_shards() {
    let dataset = TestDataset::new(&TWO_CONFIGS);
    let offline = HubConfig { offline: true, ..dataset.config() };
    let train: HubReference = "me/things:small/train".parse().unwrap();
    let error = fetch_parquet(&offline, &train, &mut |_| ()).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
    assert!(dataset.hub.requests().is_empty());

    let paths = dataset.fetch("me/things:small/train").unwrap();
    let request_count = dataset.hub.requests().len();
    assert_eq!(fetch_parquet(&offline, &train, &mut |_| ()).unwrap(), paths);
    let test = "me/things:small/test".parse().unwrap();
    let error = fetch_parquet(&offline, &test, &mut |_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "downloads are switched off and the hub's cache does not contain the parquet files of \
         me/things"
    );
    std::fs::remove_file(&paths[1]).unwrap();
    let error = fetch_parquet(&offline, &train, &mut |_| ()).unwrap_err();
    assert!(
        matches!(error, HubError::Offline { .. }),
        "half of the shards are not the split: {error:?}"
    );
    assert_eq!(dataset.hub.requests().len(), request_count);
}

#[test]
fn offline_accepts_a_cache_filled_by_another_program() {
    let dataset = TestDataset::new(&TWO_CONFIGS);
    let paths = dataset.fetch("me/things:small/train").unwrap();
    std::fs::remove_dir_all(dataset.folder.path().join("datasets--me--things/.parquet")).unwrap();
    let offline = HubConfig { offline: true, ..dataset.config() };
    assert_eq!(fetch_parquet(&offline, &"me/things".parse().unwrap(), &mut |_| ()).unwrap(), paths);
}

#[test]
fn the_error_of_a_missing_or_unconverted_dataset_is_one_sentence() {
    let dataset = TestDataset::new(&["README.md"]);
    for repository in ["me/things", "me/nothing"] {
        assert_eq!(
            dataset.fetch(repository).unwrap_err().to_string(),
            format!("{} has no dataset {repository}, or no parquet files of it", dataset.hub.url())
        );
    }
}

#[test]
fn paths_that_lead_out_of_the_cache_are_not_followed() {
    let dataset =
        TestDataset::new(&["../train/0000.parquet", "/train/0000.parquet", "a/../0000.parquet"]);
    assert!(matches!(dataset.fetch("me/things"), Err(HubError::NoParquet { .. })));
    let hub = Mirror::start(|_, _| Reply::Whole(200, vec![], b"<html>".to_vec()));
    let config = HubConfig { endpoint: hub.url(), ..HubConfig::new(dataset.folder.path()) };
    let error = fetch_parquet(&config, &"me/things".parse().unwrap(), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("refused the list of files of me/things"), "{error}");
}

#[test]
fn references_are_read_and_written() {
    for (text, config, split, written) in [
        ("a/b", None, "train", "a/b:train"),
        ("a/b:test", None, "test", "a/b:test"),
        ("a-1/b.2_c:x/y", Some("x"), "y", "a-1/b.2_c:x/y"),
    ] {
        let reference: HubReference = text.parse().unwrap();
        assert_eq!((reference.config.as_deref(), reference.split.as_str()), (config, split));
        assert_eq!(reference.to_string(), written);
        assert_eq!(written.parse::<HubReference>().unwrap(), reference);
    }
}

#[test]
fn the_error_of_a_bad_reference_is_one_sentence() {
    for text in [
        "",
        "mnist",
        "/",
        "a/",
        "/b",
        "a/b/c",
        "/etc/passwd",
        "../b",
        "a/..",
        "a/b:",
        "a/b:/",
        "a/b:x/",
        "a/b:/y",
        "a/b:..",
        "a/b:../y",
        "a/b:x/y/z",
        "a b/c",
        "a/b:x:y",
        "a\\b/c",
        "a/b\n",
    ] {
        let error = text.parse::<HubReference>().unwrap_err().to_string();
        let expected = format!("{text:?} is not the name of a dataset of the hub");
        assert!(error.starts_with(&expected), "{error}");
        assert!(!error.contains('\n'));
    }
}
