//! Failed downloads, and the files that they leave.

use std::time::{Duration, Instant};

use diffusion_hub::{HubError, download};

use crate::fixture::{Digits, Fixture, names};
use crate::mirror::{Reply, dead_url};

fn error_reply(status: u16) -> Reply {
    Reply::Whole(status, vec![], b"go away".to_vec())
}

#[test]
fn different_digits_are_an_error_and_nothing_is_written() {
    let mut fixture = Fixture::new();
    let mnist = fixture.mnist();
    fixture.parquet[1] = Digits::synthetic(12, 6).parquet();
    let hub = fixture.hub(|_, _| None);
    let error =
        download(&fixture.config(&hub.url()), &mnist, &fixture.dest(), &mut |_| ()).unwrap_err();
    let HubError::Checksum { file, expected, found } = &error else { panic!("{error:?}") };
    assert_eq!(
        (file.as_str(), Some(expected)),
        ("t10k-images-idx3-ubyte.gz", mnist.splits[1].outputs[0].sha256.as_ref())
    );
    assert_ne!(found, expected);
    assert_eq!(names(&fixture.dest()), [""; 0]);
}

#[test]
fn a_missing_file_is_named_with_its_repository() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| Some(error_reply(404)));
    let config = fixture.config(&hub.url());
    let error = fixture.download(&config).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} has no file mnist/train-00000-of-00001.parquet in the dataset ylecun/mnist at \
             77f3279092a1c1579b2250db8eafed0ad422088c",
            hub.url()
        )
    );
    assert_eq!(hub.requests().len(), 1, "a 404 is final");
    assert!(!fixture.dest().exists());
}

#[test]
fn a_request_to_a_busy_server_is_repeated() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|request, nth| match (request.method.as_str(), nth) {
        ("HEAD", 0) => Some(error_reply(429)),
        ("HEAD", 1) => Some(error_reply(500)),
        ("GET", 0) if request.path.starts_with("/store") => Some(error_reply(503)),
        _ => None,
    });
    let report = fixture.download(&fixture.config(&hub.url())).unwrap();
    assert_eq!(report.written.len(), 4);
    assert_eq!(
        hub.count(
            "HEAD",
            "resolve/77f3279092a1c1579b2250db8eafed0ad422088c/mnist/train-00000-of-00001.parquet"
        ),
        4
    );
    assert_eq!(hub.count("GET", "/store/mnist/train-00000-of-00001.parquet"), 2);
}

#[test]
fn a_server_that_stays_busy_is_an_error_after_the_repetitions() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| Some(error_reply(429)));
    let error = fixture.download(&fixture.config(&hub.url())).unwrap_err();
    assert!(
        error.to_string().contains("refused mnist/train-00000-of-00001.parquet: it answered 429"),
        "{error}"
    );
    assert_eq!(hub.requests().len(), 5, "one request and four repetitions");
}

#[test]
fn the_pause_that_a_busy_server_requests_is_respected() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|request, nth| {
        let headers = vec![("Retry-After", "1".to_owned())];
        (request.method == "HEAD" && nth == 0).then(|| Reply::Whole(429, headers, vec![]))
    });
    let start = Instant::now();
    fixture.download(&fixture.config(&hub.url())).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "the base delay is a millisecond");
}

#[test]
fn the_body_of_an_error_is_never_stored_as_the_file() {
    let fixture = Fixture::new();
    let gated = fixture.hub(|request, _| {
        let page = br#"{"error":"this dataset is gated"}"#.to_vec();
        request.path.starts_with("/store").then(|| Reply::Whole(403, vec![], page))
    });
    let config = fixture.config(&gated.url());
    let error = fixture.download(&config).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "refused mnist/train-00000-of-00001.parquet: it answered 403 Forbidden: \
             this dataset is gated"
        ),
        "{error}"
    );
    assert!(!fixture.dest().exists());
    let blobs = config.cache_dir.join("datasets--ylecun--mnist/blobs");
    assert!(
        names(&blobs).iter().all(|name| name.ends_with(".incomplete")),
        "other programs trust the cache"
    );

    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    assert_eq!(fixture.download(&config).unwrap().written.len(), 4);
}

#[test]
fn a_page_of_a_proxy_instead_of_the_file_is_an_error() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|request, _| {
        let page = b"<html>please log in</html>".to_vec();
        request.path.starts_with("/store").then(|| Reply::Whole(200, vec![], page))
    });
    let error = fixture.download(&fixture.config(&hub.url())).unwrap_err();
    assert!(matches!(error, HubError::Interrupted { attempts: 5, .. }), "{error:?}");
    assert!(error.to_string().contains("26 of "), "{error}");
}

#[test]
fn a_bad_cache_is_replaced() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    fixture.download(&config).unwrap();
    let blobs = config.cache_dir.join("datasets--ylecun--mnist/blobs");
    for name in names(&blobs) {
        std::fs::write(blobs.join(name), "an error page").unwrap();
    }
    let elsewhere = fixture.folder.path().join("elsewhere");
    assert_eq!(
        download(&config, &fixture.mnist(), &elsewhere, &mut |_| ()).unwrap().written.len(),
        4
    );
    assert_eq!(hub.count("GET", "/store/mnist/train-00000-of-00001.parquet"), 2);
}

#[test]
fn a_slow_server_is_not_a_stalled_server() {
    let fixture = Fixture::new();
    let whole = fixture.parquet[0].clone();
    let hub = fixture.hub(move |request, _| {
        (request.path == "/store/mnist/train-00000-of-00001.parquet")
            .then(|| Reply::Slow(whole.clone(), 10, Duration::from_millis(120)))
    });
    let mut config = fixture.config(&hub.url());
    // Shorter than the transfer, longer than a pause in it.
    config.stall_timeout = Duration::from_secs(1);
    assert_eq!(fixture.download(&config).unwrap().written.len(), 4);
}

#[test]
fn a_server_that_sends_nothing_is_an_error() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| Some(Reply::Silence));
    let mut config = fixture.config(&hub.url());
    config.stall_timeout = Duration::from_millis(200);
    let start = Instant::now();
    let error = fixture.download(&config).unwrap_err();
    assert_eq!(error.to_string(), format!("no data from {} for 0.2 seconds", hub.url()));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_error_of_an_unreachable_server_is_one_sentence() {
    let fixture = Fixture::new();
    let config = fixture.config(&dead_url());
    let error = fixture.download(&config).unwrap_err();
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
        // Half of them in the footer, which describes the rest of the file.
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
        match fixture.download(&config) {
            Err(HubError::Malformed { .. } | HubError::Checksum { .. }) => {
                assert!(!fixture.dest().exists(), "case {case}");
            }
            // Some bits have no effect, such as those of a page's statistics.
            Ok(_) => std::fs::remove_dir_all(fixture.dest()).unwrap(),
            Err(error) => panic!("case {case}: {error:?}"),
        }
    }
}
