//! `diffusion_hub` with a simulated hub on loopback.

mod faults;
mod fixture;
mod mirror;
mod named;
mod references;
mod resuming;

use std::io::Read;
use std::net::TcpListener;

use diffusion_hub::{HubError, Progress, Verification, download};
use fixture::{Fixture, gunzip, names};
use mirror::{Mirror, Reply};

const NAMES: [&str; 4] = [
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
];

#[test]
fn a_download_writes_four_files_that_candle_reads() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let mut events = Vec::new();
    let config = fixture.config(&hub.url());
    let report =
        download(&config, &fixture.mnist(), &fixture.dest(), &mut |event| events.push(event))
            .unwrap();

    assert_eq!((report.written.len(), report.kept.len()), (4, 0));
    assert_eq!(report.bytes_received, (fixture.parquet[0].len() + fixture.parquet[1].len()) as u64);
    assert_eq!(
        (report.verification, report.commit.as_deref()),
        (Some(Verification::Content), Some(fixture.mnist().revision.as_str()))
    );
    assert_eq!(names(&fixture.dest()), NAMES);
    assert_eq!(gunzip(&fixture.dest().join(NAMES[2])), fixture.digits[0].images_idx());

    let unpacked = tempfile::tempdir().unwrap();
    for name in NAMES {
        let idx = gunzip(&fixture.dest().join(name));
        std::fs::write(unpacked.path().join(name.trim_end_matches(".gz")), idx).unwrap();
    }
    let read = candle_datasets::vision::mnist::load_dir(unpacked.path()).unwrap();
    assert_eq!(read.train_images.dims(), [30, 784]);
    assert_eq!(read.train_labels.to_vec1::<u8>().unwrap(), fixture.digits[0].labels);
    assert_eq!(read.test_labels.to_vec1::<u8>().unwrap(), fixture.digits[1].labels);
    let pixels =
        (read.test_images.flatten_all().unwrap() * 255.).unwrap().to_vec1::<f32>().unwrap();
    let pixels: Vec<u8> = pixels.iter().map(|pixel| pixel.round() as u8).collect();
    assert_eq!(pixels, fixture.digits[1].pixels);

    let total = fixture.parquet[0].len() as u64;
    let file = "mnist/train-00000-of-00001.parquet".to_owned();
    assert!(events.contains(&Progress::Downloading { file: file.clone(), done: total, total }));
    assert!(events.contains(&Progress::Decoding { file, done: 30, total: 30 }));
}

#[test]
fn a_second_run_makes_no_request() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    fixture.download(&config).unwrap();
    let request_count = hub.requests().len();
    let report = fixture.download(&config).unwrap();
    assert_eq!((report.written.len(), report.kept.len(), report.bytes_received), (0, 4, 0));
    assert_eq!(hub.requests().len(), request_count);
}

#[test]
fn a_damaged_file_is_replaced_from_the_cache_and_the_others_are_kept() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let config = fixture.config(&hub.url());
    fixture.download(&config).unwrap();
    let request_count = hub.requests().len();
    let path = fixture.dest().join(NAMES[0]);
    let whole = std::fs::read(&path).unwrap();
    for damaged in [&whole[..whole.len() / 2], b"not gzip at all", b""] {
        std::fs::write(&path, damaged).unwrap();
        let report = fixture.download(&config).unwrap();
        assert_eq!((report.written, report.kept.len()), (vec![path.clone()], 3));
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
    assert_eq!(hub.requests().len(), request_count);
}

#[test]
fn offline_uses_the_cache_and_reports_a_missing_file() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let mut config = fixture.config(&hub.url());
    config.offline = true;
    let error = fixture.download(&config).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "downloads are switched off and the hub's cache does not contain \
         mnist/train-00000-of-00001.parquet"
    );
    assert!(hub.requests().is_empty());
    assert!(!fixture.dest().exists());

    config.offline = false;
    fixture.download(&config).unwrap();
    let request_count = hub.requests().len();
    config.offline = true;
    let elsewhere = fixture.folder.path().join("elsewhere");
    assert_eq!(
        download(&config, &fixture.mnist(), &elsewhere, &mut |_| ()).unwrap().written.len(),
        4
    );
    assert_eq!(hub.requests().len(), request_count);
}

#[test]
fn the_token_is_sent_when_there_is_one_and_never_shown() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let mut config = fixture.config(&hub.url());
    config.token = Some("hf_secret".to_owned());
    assert!(!format!("{config:?}").contains("hf_secret"));
    fixture.download(&config).unwrap();
    let requests = hub.requests();
    assert!(requests.iter().all(|r| r.header("authorization") == Some("Bearer hf_secret")));

    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    fixture.download(&fixture.config(&hub.url())).unwrap();
    assert!(hub.requests().iter().all(|r| r.header("authorization").is_none()));
}

#[test]
fn https_addresses_use_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let first_byte = std::thread::spawn(move || {
        let mut byte = [0];
        listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
        byte[0]
    });
    let fixture = Fixture::new();
    let mut config = fixture.config(&format!("https://{address}"));
    config.retries = 0;
    let error = fixture.download(&config).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    // 22 begins a TLS handshake record. Without TLS the client would not connect at all.
    assert_eq!(first_byte.join().unwrap(), 22);
}

#[test]
fn a_proxy_is_used_unless_the_hub_is_exempt() {
    let fixture = Fixture::new();
    let hub = fixture.hub(|_, _| None);
    let proxy = Mirror::start(|_, _| Reply::Whole(403, vec![], vec![]));
    let mut config = fixture.config(&hub.url());
    config.retries = 0;
    config.http_proxy = Some(proxy.url());
    let error = fixture.download(&config).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
    let requests = proxy.requests();
    assert_eq!((requests.len(), requests[0].method.as_str()), (1, "CONNECT"));
    assert!(hub.url().ends_with(&requests[0].path) && hub.requests().is_empty());

    config.no_proxy = "127.0.0.0/8".to_owned();
    assert_eq!(fixture.download(&config).unwrap().written.len(), 4);
    assert_eq!(proxy.requests().len(), 1);
}

#[test]
fn an_invalid_endpoint_is_an_error_that_names_it() {
    let fixture = Fixture::new();
    for endpoint in ["", "huggingface.co", "localhost:8080", "ftp://127.0.0.1"] {
        let error = fixture.download(&fixture.config(endpoint)).unwrap_err();
        assert!(matches!(error, HubError::Endpoint { .. }), "{endpoint}: {error:?}");
        assert!(
            error.to_string().starts_with(&format!("{endpoint:?} is not the address of a hub"))
        );
    }
}
