//! `cargo xtask download mnist` as a user meets it.

// Shared with the tests of diffusion-data; each uses its own part of it.
#[allow(dead_code)]
#[path = "../../crates/diffusion-data/tests/hub/mirror.rs"]
mod mirror;

use std::path::Path;
use std::process::{Command, Output};

use mirror::{Mirror, Reply, dead_url};

/// Runs the chore with nothing of the tester's own hub settings.
fn download(folder: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["download", "mnist", "--data-dir"]).arg(folder.join("mnist"));
    let own =
        ["HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    for name in own {
        command.env_remove(name);
    }
    command.env("HF_HOME", folder.join("hf")).env("CI", "true").envs(variables.iter().copied());
    command.output().unwrap()
}

/// The one line of standard error that tells the error.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(text.ends_with(&format!("{}\n", lines[0])), "{text}");
    lines[0].to_owned()
}

const WAY_OUT: &str = "the digits embedded in the binary need none (leave out --data), or put the four MNIST \
                       files in a folder and pass `--data DIR`";

#[test]
fn an_unreachable_hub_is_one_sentence_that_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = dead_url();
    let output = download(folder.path(), &[("HF_ENDPOINT", &endpoint)]);
    let complaint = complaint(&output);
    assert!(complaint.starts_with(&format!("error: {endpoint} cannot be reached: ")), "{complaint}");
    assert!(complaint.ends_with(WAY_OUT), "{complaint}");
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    assert!(!folder.path().join("mnist").exists());
}

#[test]
fn offline_is_one_sentence_and_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Mirror::start(|_, _| Reply::Whole(404, vec![], vec![]));
    let output = download(folder.path(), &[("HF_ENDPOINT", &hub.url()), ("HF_HUB_OFFLINE", "1")]);
    let complaint = complaint(&output);
    assert!(complaint.contains("unset HF_HUB_OFFLINE") && complaint.ends_with(WAY_OUT), "{complaint}");
    assert!(hub.requests().is_empty());
}

#[test]
fn the_endpoint_and_the_token_of_the_environment_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Mirror::start(|_, _| Reply::Whole(404, vec![], vec![]));
    let output = download(folder.path(), &[("HF_ENDPOINT", &hub.url()), ("HF_TOKEN", "hf_mine")]);
    assert!(complaint(&output).contains("has no file mnist/train/0000.parquet in the dataset ylecun/mnist"));
    assert_eq!(hub.requests()[0].header("authorization"), Some("Bearer hf_mine"));
}

#[test]
fn a_token_nobody_asked_to_use_stays_at_home() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("hf")).unwrap();
    std::fs::write(folder.path().join("hf/token"), "hf_stored").unwrap();
    let hub = Mirror::start(|_, _| Reply::Whole(404, vec![], vec![]));
    download(folder.path(), &[("HF_ENDPOINT", &hub.url())]);
    assert!(hub.requests()[0].header("authorization").is_none());
}

#[test]
fn the_cache_lies_under_hf_home() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Mirror::start(|_, _| {
        let headers = vec![("ETag", "\"etag\"".to_owned()), ("X-Repo-Commit", "c0ffee".to_owned())];
        Reply::Whole(200, headers, b"not parquet".to_vec())
    });
    let output = download(folder.path(), &[("HF_ENDPOINT", &hub.url())]);
    let complaint = complaint(&output);
    assert!(complaint.contains(" is not MNIST in parquet: ") && complaint.ends_with(WAY_OUT), "{complaint}");
    assert!(folder.path().join("hf/hub/datasets--ylecun--mnist").is_dir());
    assert!(!folder.path().join("mnist").exists());
}

#[test]
fn an_unknown_data_set_is_a_usage_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["download", "mnits"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mnist"));
}
