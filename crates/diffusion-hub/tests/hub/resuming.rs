//! Interrupted and simultaneous transfers.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use diffusion_hub::{HubConfig, HubError, Progress, download};

use crate::fixture::{COMMIT, Fixture, names, sha256};
use crate::mirror::{Mirror, Reply};

const TRAIN: &str = "/store/mnist/train-00000-of-00001.parquet";

fn blob(config: &HubConfig, bytes: &[u8]) -> PathBuf {
    config.cache_dir.join("datasets--ylecun--mnist/blobs").join(sha256(bytes))
}

fn incomplete(config: &HubConfig, bytes: &[u8]) -> PathBuf {
    blob(config, bytes).with_extension("incomplete")
}

/// Writes the incomplete file that a killed program leaves.
fn write_incomplete(config: &HubConfig, whole: &[u8], left: &[u8]) {
    let path = incomplete(config, whole);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, left).unwrap();
}

fn range(from: usize) -> String {
    format!("bytes={from}-")
}

/// A hub that cuts the first transfers of the training split, each after the given number of bytes.
fn hub_with_cuts(fixture: &Fixture, after: &'static [usize]) -> Mirror {
    let whole = fixture.parquet[0].clone();
    fixture.hub(move |request, nth| {
        (request.path == TRAIN && nth < after.len()).then(|| Reply::Cut(whole.clone(), after[nth]))
    })
}

#[test]
fn a_cut_transfer_is_resumed_in_the_same_run() {
    let fixture = Fixture::new();
    let hub = hub_with_cuts(&fixture, &[1000, 500]);
    let mut retries = Vec::new();
    let config = fixture.config(&hub.url());
    let report = download(&config, &fixture.mnist(), &fixture.dest(), &mut |event| {
        if let Progress::Retrying { attempt, .. } = event {
            retries.push(attempt);
        }
    });
    let report = report.unwrap();
    assert_eq!((report.written.len(), retries), (4, vec![2, 3]));
    assert_eq!(hub.ranges(TRAIN), ["all".to_owned(), range(1000), range(1500)]);
    let size: usize = fixture.parquet.iter().map(Vec::len).sum();
    assert_eq!(report.bytes_received, size as u64, "no byte is received twice");
}

#[test]
fn a_cut_transfer_is_completed_by_the_next_run() {
    let fixture = Fixture::new();
    let hub = hub_with_cuts(&fixture, &[1234]);
    let mut config = fixture.config(&hub.url());
    config.retries = 0;
    let error = fixture.download(&config).unwrap_err();
    assert!(matches!(error, HubError::Interrupted { attempts: 1, .. }), "{error:?}");
    assert!(!fixture.dest().exists());
    assert_eq!(
        std::fs::read(incomplete(&config, &fixture.parquet[0])).unwrap(),
        fixture.parquet[0][..1234]
    );

    assert_eq!(fixture.download(&config).unwrap().written.len(), 4);
    assert_eq!(hub.ranges(TRAIN), ["all".to_owned(), range(1234)]);
}

#[test]
fn the_transfer_of_a_killed_program_is_resumed() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    let whole = &fixture.parquet[0];
    write_incomplete(&config, whole, &whole[..whole.len() - 100]);
    let mut first = None;
    let report = download(&config, &fixture.mnist(), &fixture.dest(), &mut |event| {
        if let Progress::Downloading { done, .. } = event {
            first.get_or_insert(done);
        }
    });
    let rest = 100 + fixture.parquet[1].len();
    assert_eq!(
        first,
        Some(whole.len() as u64 - 100),
        "the first event has the length of the incomplete file"
    );
    assert_eq!(report.unwrap().bytes_received, rest as u64);
    assert_eq!(hub.ranges(TRAIN), [range(whole.len() - 100)]);
    // Each redirection to the storage server has a body of 31 bytes; the answer to HEAD has none.
    assert_eq!(hub.sent(), rest + 2 * 31, "only the rest was sent");
    assert_eq!(names(&config.cache_dir.join("datasets--ylecun--mnist/blobs")).len(), 2);
}

#[test]
fn a_complete_but_unnamed_file_needs_no_transfer() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    write_incomplete(&config, &fixture.parquet[0], &fixture.parquet[0]);
    assert_eq!(fixture.download(&config).unwrap().written.len(), 4);
    assert_eq!(hub.ranges(TRAIN), [""; 0]);
}

#[test]
fn a_damaged_beginning_is_discarded_and_the_file_is_transferred_again() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    let whole = &fixture.parquet[0];
    write_incomplete(&config, whole, &[7; 100]);
    assert_eq!(fixture.download(&config).unwrap().written.len(), 4);
    assert_eq!(hub.ranges(TRAIN), [range(100), "all".to_owned()]);
}

#[test]
fn an_incomplete_file_longer_than_the_file_is_discarded() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    write_incomplete(&config, &fixture.parquet[0], &vec![7; fixture.parquet[0].len() + 1]);
    assert_eq!(fixture.download(&config).unwrap().written.len(), 4);
    assert_eq!(hub.ranges(TRAIN), ["all"]);
}

#[test]
fn a_server_that_ignores_ranges_is_supported() {
    let fixture = Fixture::new();
    let whole = fixture.parquet[0].clone();
    let hub = fixture.hub(move |request, _| {
        (request.path == TRAIN).then(|| Reply::Whole(200, vec![], whole.clone()))
    });
    let config = fixture.config(&hub.url());
    write_incomplete(&config, &fixture.parquet[0], &fixture.parquet[0][..999]);
    let report = fixture.download(&config).unwrap();
    assert_eq!(report.written.len(), 4);
    assert_eq!(hub.ranges(TRAIN), [range(999)], "one request is enough");
    assert_eq!(std::fs::read(blob(&config, &fixture.parquet[0])).unwrap(), fixture.parquet[0]);
}

#[test]
fn the_whole_file_is_requested_after_status_416() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|request, _| {
        (request.path == TRAIN && request.header("range").is_some())
            .then(|| Reply::Whole(416, vec![], vec![]))
    });
    let config = fixture.config(&hub.url());
    write_incomplete(&config, &fixture.parquet[0], &fixture.parquet[0][..999]);
    assert_eq!(fixture.download(&config).unwrap().written.len(), 4);
    assert_eq!(hub.ranges(TRAIN), [range(999), "all".to_owned()]);
}

#[test]
fn content_with_another_digest_is_deleted_and_both_digests_are_named() {
    let fixture = Fixture::new();
    let mut other = fixture.parquet[0].clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    let found = sha256(&other);
    let hub =
        fixture.hub(move |request, _| (request.path == TRAIN).then(|| Reply::File(other.clone())));
    let config = fixture.config(&hub.url());
    let error = fixture.download(&config).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the content for mnist/train-00000-of-00001.parquet has the SHA-256 {found}, \
             expected {}",
            sha256(&fixture.parquet[0])
        )
    );
    assert_eq!(names(&config.cache_dir.join("datasets--ylecun--mnist/blobs")), [""; 0]);
    assert_eq!(hub.count("GET", TRAIN), 1, "a repetition would not help");
}

#[test]
fn redirections_are_followed_and_the_token_stays_with_the_hub() {
    let fixture = Fixture::new();
    let train = fixture.parquet[0].clone();
    let store = Mirror::start(move |_, _| Reply::File(train.clone()));
    let elsewhere = store.url();
    let hub = fixture.hub(move |request, _| match request.path.as_str() {
        // The hub's answer for a renamed data set.
        path if path.starts_with("/datasets/ylecun/mnist/")
            && request.header("renamed").is_none() =>
        {
            let location = path.replacen("ylecun", "lecun", 1);
            Some(Reply::Whole(307, vec![("Location", location)], vec![]))
        }
        path if path.starts_with("/datasets/lecun/mnist/") => {
            let file = &fixture_files()[usize::from(path.contains("/test-"))];
            let target = if path.contains("/train-") {
                format!("{elsewhere}/anything")
            } else {
                "/store/mnist/test-00000-of-00001.parquet".to_owned()
            };
            let headers = vec![
                ("Location", target),
                ("X-Repo-Commit", COMMIT.to_owned()),
                ("X-Linked-Etag", format!("\"{}\"", sha256(file))),
                ("X-Linked-Size", file.len().to_string()),
            ];
            Some(Reply::Whole(302, headers, vec![]))
        }
        _ => None,
    });
    let mut config = fixture.config(&hub.url());
    config.token = Some("hf_secret".to_owned());
    assert_eq!(fixture.download(&config).unwrap().written.len(), 4);
    assert!(hub.requests().iter().all(|r| r.header("authorization") == Some("Bearer hf_secret")));
    assert!(store.requests().iter().all(|r| r.header("authorization").is_none()));
    assert_eq!(store.requests().len(), 1);
}

fn fixture_files() -> [Vec<u8>; 2] {
    Fixture::new().parquet
}

#[test]
fn simultaneous_downloads_transfer_a_file_once() {
    let fixture = Fixture::new();
    let whole = fixture.parquet[0].clone();
    let hub = fixture.hub(move |request, _| {
        (request.path == TRAIN).then(|| Reply::Slow(whole.clone(), 5, Duration::from_millis(40)))
    });
    let config = fixture.config(&hub.url());
    let mnist = fixture.mnist();
    thread::scope(|scope| {
        let runs = [0, 1, 2].map(|n| {
            let (config, mnist) = (&config, &mnist);
            let dest = fixture.folder.path().join(format!("dest-{n}"));
            scope.spawn(move || download(config, mnist, &dest, &mut |_| ()).unwrap().written.len())
        });
        assert_eq!(runs.map(|run| run.join().unwrap()), [4, 4, 4]);
    });
    assert_eq!(hub.count("GET", TRAIN), 1, "the others find it complete");
}

#[test]
fn the_cache_has_the_layout_of_the_hubs_own_tools() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    fixture.download(&config).unwrap();
    let repository_cache = config.cache_dir.join("datasets--ylecun--mnist");
    let commit = fixture.mnist().revision;
    let pointer =
        repository_cache.join("snapshots").join(&commit).join("mnist/train-00000-of-00001.parquet");
    assert_eq!(std::fs::read(&pointer).unwrap(), fixture.parquet[0]);
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(&pointer).unwrap(),
        PathBuf::from("../../../blobs").join(sha256(&fixture.parquet[0]))
    );
    // hf-hub finds the file there without a request.
    let client = hf_hub::HFClient::builder()
        .endpoint(hub.url())
        .cache_dir(&config.cache_dir)
        .build()
        .unwrap();
    let client = hf_hub::HFClientSync::from_inner(client).unwrap();
    let request_count = hub.requests().len();
    let repository = client.dataset("ylecun", "mnist");
    let file =
        repository.download_file().filename("mnist/train-00000-of-00001.parquet").revision(&commit);
    let found = file.local_files_only(true).send().unwrap();
    assert_eq!(found, pointer);
    assert_eq!(hub.requests().len(), request_count);
}
