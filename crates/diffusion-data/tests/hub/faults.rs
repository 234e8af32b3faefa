//! What goes wrong on the way, and what is left behind.

use std::time::{Duration, Instant};

use diffusion_data::hub::{HubError, Progress, download_mnist};

use crate::fixture::{Digits, Fixture, SPLITS, names};
use crate::mirror::{Reply, dead_url};

fn refusal(status: u16) -> Reply {
    Reply::Whole(status, vec![], b"go away".to_vec())
}

#[test]
fn other_digits_are_refused_and_nothing_is_written() {
    let mut fixture = Fixture::new();
    let expected = fixture.config("").mnist.splits[1].images.sha256.clone();
    fixture.parquet[1] = Digits::made_up(12, 6).parquet();
    let hub = fixture.hub(|_, _| None);
    let mut config = fixture.config(&hub.url());
    config.mnist.splits[1].images.sha256.clone_from(&expected);
    let error = download_mnist(&config, &fixture.dest(), &mut |_| ()).unwrap_err();
    let HubError::Checksum { file, expected: named, found } = &error else { panic!("{error:?}") };
    assert_eq!((file.as_str(), named), ("t10k-images-idx3-ubyte.gz", &expected));
    assert_ne!(found, &expected);
    assert_eq!(names(&fixture.dest()), [""; 0]);
}

#[test]
fn a_missing_file_is_named_with_its_repository() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| Some(refusal(404)));
    let config = fixture.config(&hub.url());
    let error = download_mnist(&config, &fixture.dest(), &mut |_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} has no file mnist/train/0000.parquet in the dataset ylecun/mnist at refs/convert/parquet",
            hub.url()
        )
    );
    assert_eq!(hub.requests().len(), 1, "a 404 is final");
    assert!(!fixture.dest().exists());
}

#[test]
fn a_busy_server_is_asked_again() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|request, nth| match (request.method.as_str(), nth) {
        ("HEAD", 0) => Some(refusal(429)),
        ("HEAD", 1) => Some(refusal(500)),
        ("GET", 0) if request.path.starts_with("/store") => Some(refusal(503)),
        _ => None,
    });
    let report = download_mnist(&fixture.config(&hub.url()), &fixture.dest(), &mut |_| ()).unwrap();
    assert_eq!(report.written.len(), 4);
    assert_eq!(hub.count("HEAD", "train/0000.parquet"), 3);
    assert_eq!(hub.count("GET", "/store/train"), 2);
}

#[test]
fn a_server_that_stays_busy_is_an_error_after_the_repetitions() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| Some(refusal(429)));
    let error = download_mnist(&fixture.config(&hub.url()), &fixture.dest(), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("refused mnist/train/0000.parquet: it answered 429"), "{error}");
    assert_eq!(hub.requests().len(), 5, "one request and four repetitions");
}

#[test]
fn the_body_of_a_refusal_is_never_taken_for_the_file() {
    let fixture = Fixture::new();
    let refusing = fixture.hub(|request, _| request.path.starts_with("/store").then(|| refusal(403)));
    let mut config = fixture.config(&refusing.url());
    config.retries = 1;
    let error = download_mnist(&config, &fixture.dest(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, HubError::Interrupted { attempts: 2, .. }), "{error:?}");
    assert!(!fixture.dest().exists());
    let blobs = config.cache_dir.join("datasets--ylecun--mnist/blobs");
    assert_eq!(names(&blobs), [""; 0], "other programs trust the cache");

    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    assert_eq!(download_mnist(&config, &fixture.dest(), &mut |_| ()).unwrap().written.len(), 4);
}

#[test]
fn a_bad_cache_is_replaced() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    download_mnist(&config, &fixture.dest(), &mut |_| ()).unwrap();
    let blobs = config.cache_dir.join("datasets--ylecun--mnist/blobs");
    for name in names(&blobs) {
        std::fs::write(blobs.join(name), "an error page").unwrap();
    }
    let elsewhere = fixture.folder.path().join("elsewhere");
    assert_eq!(download_mnist(&config, &elsewhere, &mut |_| ()).unwrap().written.len(), 4);
    assert_eq!(hub.count("GET", "/store/train"), 2);
}

#[test]
fn a_cut_transfer_is_repeated_in_the_same_run() {
    let fixture = Fixture::new();
    let whole = fixture.parquet[0].clone();
    let hub = fixture.hub(move |request, nth| {
        (request.path == "/store/train" && nth < 2).then(|| Reply::Cut(whole.clone(), whole.len() / 2))
    });
    let mut retries = Vec::new();
    let report = download_mnist(&fixture.config(&hub.url()), &fixture.dest(), &mut |event| {
        if let Progress::Retrying { attempt, .. } = event {
            retries.push(attempt);
        }
    });
    assert_eq!(report.unwrap().written.len(), 4);
    assert_eq!(retries, [2, 3]);
}

#[test]
fn a_cut_transfer_is_completed_by_the_next_run() {
    let fixture = Fixture::new();
    let whole = fixture.parquet[1].clone();
    let hub = fixture.hub(move |request, nth| {
        (request.path == "/store/test" && nth == 0).then(|| Reply::Cut(whole.clone(), whole.len() / 2))
    });
    let mut config = fixture.config(&hub.url());
    config.retries = 0;
    let error = download_mnist(&config, &fixture.dest(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, HubError::Interrupted { attempts: 1, .. }), "{error:?}");
    assert!(!fixture.dest().exists());

    let report = download_mnist(&config, &fixture.dest(), &mut |_| ()).unwrap();
    assert_eq!(report.written.len(), 4);
    assert_eq!(
        report.bytes_received,
        fixture.parquet[1].len() as u64,
        "the finished split is not fetched again"
    );
    assert_eq!(SPLITS.map(|split| hub.count("GET", &format!("/store/{split}"))), [1, 2]);
}

#[test]
fn a_slow_server_is_waited_for() {
    let fixture = Fixture::new();
    let whole = fixture.parquet[0].clone();
    let hub = fixture.hub(move |request, _| {
        (request.path == "/store/train").then(|| Reply::Slow(whole.clone(), 10, Duration::from_millis(120)))
    });
    let mut config = fixture.config(&hub.url());
    // Shorter than the transfer, longer than a pause in it.
    config.stall_timeout = Duration::from_secs(1);
    assert_eq!(download_mnist(&config, &fixture.dest(), &mut |_| ()).unwrap().written.len(), 4);
}

#[test]
fn a_silent_server_is_given_up() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| Some(Reply::Silence));
    let mut config = fixture.config(&hub.url());
    config.stall_timeout = Duration::from_millis(200);
    let start = Instant::now();
    let error = download_mnist(&config, &fixture.dest(), &mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), format!("{} has sent nothing for 0.2 seconds", hub.url()));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_unreachable_server_is_one_sentence() {
    let fixture = Fixture::new();
    let config = fixture.config(&dead_url());
    let error = download_mnist(&config, &fixture.dest(), &mut |_| ()).unwrap_err();
    assert!(error.concerns_source());
    let text = error.to_string();
    assert!(text.starts_with(&format!("{} cannot be reached: ", config.endpoint)), "{text}");
    assert!(!text.contains('\n'));
    assert!(!fixture.dest().exists());
}

#[test]
fn damaged_parquet_is_an_error_and_never_a_panic() {
    let mut fixture = Fixture::new();
    let whole = fixture.parquet[0].clone();
    let mut damaged = vec![Vec::new(), b"PAR1".to_vec(), b"PAR1PAR1".to_vec(), vec![0xFF; 500]];
    damaged.extend((1..6).map(|i| whole[..whole.len() * i / 6].to_vec()));
    damaged.extend((0..16).map(|i| {
        let mut bytes = whole.clone();
        // Half of them in the footer, which rules all the rest.
        let from = if i % 2 == 0 { 0 } else { bytes.len() - 700 };
        let position = from + (i * 7919) % (bytes.len() - from);
        bytes[position] ^= 1 << (i % 8);
        bytes
    }));
    for (case, bytes) in damaged.into_iter().enumerate() {
        fixture.parquet[0] = bytes;
        let hub = fixture.hub(|_, _| None);
        let mut config = fixture.config(&hub.url());
        config.cache_dir = fixture.folder.path().join(format!("cache-{case}"));
        match download_mnist(&config, &fixture.dest(), &mut |_| ()) {
            Err(HubError::Malformed { .. } | HubError::Checksum { .. }) => {
                assert!(!fixture.dest().exists(), "case {case}");
            }
            // Some bits of the file mean nothing, such as those of a page's statistics.
            Ok(_) => std::fs::remove_dir_all(fixture.dest()).unwrap(),
            Err(error) => panic!("case {case}: {error:?}"),
        }
    }
}
