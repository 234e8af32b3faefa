//! `diffusion data download`.

// Shared with the tests of diffusion-hub; neither uses all of it.
#[allow(dead_code)]
#[path = "../../../diffusion-hub/tests/hub/mirror.rs"]
mod mirror;

use mirror::{Mirror, Reply, dead_url};

use crate::common::{ProgramOutput, TestDir};

/// Runs `line` without the hub settings of the environment.
fn run(place: &TestDir, line: &str, variables: &[(&str, &str)]) -> ProgramOutput {
    let mut command = place.command(line);
    let own = [
        "HF_ENDPOINT",
        "HF_HUB_CACHE",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ];
    for name in own {
        command.env_remove(name);
    }
    let output =
        command.env("HF_HOME", place.path("hf")).envs(variables.iter().copied()).output().unwrap();
    ProgramOutput {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn download(place: &TestDir, variables: &[(&str, &str)]) -> ProgramOutput {
    run(place, "data download mnist", variables)
}

/// The last line of standard error, which must be the only error.
fn error_line(answer: &ProgramOutput) -> String {
    assert_eq!(answer.code, Some(1), "{}", answer.err);
    assert!(answer.out.is_empty(), "{}", answer.out);
    let is_error = |line: &&str| line.contains("ERROR") || line.starts_with("error:");
    assert_eq!(answer.err.lines().filter(is_error).count(), 1, "{}", answer.err);
    let last = answer.err.lines().last().unwrap();
    assert!(is_error(&last), "{}", answer.err);
    last.to_owned()
}

fn not_found() -> Mirror {
    Mirror::start(|_, _| Reply::Whole(404, vec![], vec![]))
}

const ADVICE: &str = "the digits embedded in the binary need none (leave out --data), or put the files of MNIST \
                       in a folder and pass `--data DIR`";

#[test]
fn an_unreachable_hub_is_one_sentence_that_says_how_to_go_on() {
    let place = TestDir::new();
    let endpoint = dead_url();
    let answer = download(&place, &[("HF_ENDPOINT", &endpoint)]);
    let error_line = error_line(&answer);
    assert!(error_line.contains(&format!("{endpoint} cannot be reached: ")), "{error_line}");
    assert!(error_line.ends_with(ADVICE), "{error_line}");
    assert!(!place.path("data").exists());
}

#[test]
fn offline_is_one_sentence_and_sends_no_request() {
    let place = TestDir::new();
    let hub = not_found();
    let answer = download(&place, &[("HF_ENDPOINT", &hub.url()), ("HF_HUB_OFFLINE", "1")]);
    let error_line = error_line(&answer);
    assert!(
        error_line.contains("unset HF_HUB_OFFLINE") && error_line.ends_with(ADVICE),
        "{error_line}"
    );
    assert_eq!(answer.err.lines().count(), 1, "{}", answer.err);
    assert!(hub.requests().is_empty());
}

#[test]
fn the_endpoint_and_the_token_of_the_environment_are_used() {
    let place = TestDir::new();
    let hub = not_found();
    let answer = download(&place, &[("HF_ENDPOINT", &hub.url()), ("HF_TOKEN", "hf_mine")]);
    assert!(
        error_line(&answer)
            .contains("has no file mnist/train-00000-of-00001.parquet in the dataset ylecun/mnist")
    );
    assert_eq!(hub.requests()[0].header("authorization"), Some("Bearer hf_mine"));
}

#[test]
fn a_stored_token_is_not_sent() {
    let place = TestDir::new();
    place.write("hf/token", "hf_stored");
    let hub = not_found();
    download(&place, &[("HF_ENDPOINT", &hub.url())]);
    assert!(hub.requests()[0].header("authorization").is_none());
}

#[test]
fn the_cache_is_under_hf_home_and_a_file_of_another_kind_is_named() {
    let place = TestDir::new();
    let hub = Mirror::start(|_, _| {
        let headers = vec![("ETag", "\"etag\"".to_owned()), ("X-Repo-Commit", "c0ffee".to_owned())];
        Reply::Whole(200, headers, b"not parquet".to_vec())
    });
    let answer = download(&place, &[("HF_ENDPOINT", &hub.url())]);
    let error_line = error_line(&answer);
    assert!(
        error_line.contains(" is not MNIST in parquet: ") && error_line.ends_with(ADVICE),
        "{error_line}"
    );
    assert!(place.path("hf/hub/datasets--ylecun--mnist").is_dir());
    assert!(!place.path("data").exists());
}

#[test]
fn an_unknown_data_set_is_a_usage_error_that_names_the_known_ones() {
    let place = TestDir::new();
    place.refuses("data download mnits", 2, &["mnits", "mnist, fashion-mnist, cifar10"]);
}

#[test]
fn the_other_data_sets_are_requested_from_their_repositories() {
    let place = TestDir::new();
    for (name, file) in [
        (
            "fashion-mnist",
            "fashion_mnist/train-00000-of-00001.parquet in the dataset zalando-datasets/fashion_mnist",
        ),
        ("cifar10", "plain_text/train-00000-of-00001.parquet in the dataset uoft-cs/cifar10"),
    ] {
        let hub = not_found();
        let answer = run(&place, &format!("data download {name}"), &[("HF_ENDPOINT", &hub.url())]);
        assert!(error_line(&answer).contains(file), "{}", answer.err);
    }
}

#[test]
fn a_reference_that_names_nothing_is_a_usage_error() {
    let place = TestDir::new();
    let answer = run(&place, "train --data hf:mnist --steps 1", &[]);
    assert_eq!(answer.code, Some(2), "{}", answer.err);
    assert!(answer.err.contains("is not the name of a dataset of the hub"), "{}", answer.err);
}

#[test]
fn a_data_set_of_the_hub_trains_by_its_reference_and_later_offline() {
    let place = TestDir::new();
    place.small_config();
    for seed in 0..8u32 {
        let pixels: Vec<u8> = (0..64).map(|i| (i * 3 + seed * 29) as u8).collect();
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 8, 8);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        place.write(&format!("set/{}/{seed}.png", ["cat", "dog"][seed as usize % 2]), bytes);
    }
    place.ok("data pack set set.parquet");
    let file = std::fs::read(place.path("set.parquet")).unwrap();
    let hub = Mirror::start(move |request, _| {
        if request.path.ends_with("/revision/refs%2Fconvert%2Fparquet") {
            let list =
                r#"{"sha": "c0ffee", "siblings": [{"rfilename": "default/train/0000.parquet"}]}"#;
            return Reply::Whole(200, vec![], list.into());
        }
        if request.method == "HEAD" {
            let size = ("X-Linked-Size", file.len().to_string());
            let headers =
                vec![("ETag", "\"etag\"".to_owned()), ("X-Repo-Commit", "c0ffee".to_owned()), size];
            return Reply::Whole(200, headers, vec![]);
        }
        Reply::File(file.clone())
    });
    let line = "train --config small.toml --data hf:me/things --run-dir";
    let online = run(&place, &format!("{line} a"), &[("HF_ENDPOINT", &hub.url())]);
    assert_eq!(online.code, Some(0), "{}", online.err);
    assert!(
        online.err.contains("8 grey pictures of 8×8 from hf:me/things (parquet, 2 classes)"),
        "{}",
        online.err
    );
    let asked = hub.requests().len();
    let offline = [("HF_ENDPOINT", hub.url()), ("HF_HUB_OFFLINE", "1".to_owned())];
    let offline: Vec<_> = offline.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = run(&place, &format!("{line} b"), &offline);
    assert_eq!(answer.code, Some(0), "{}", answer.err);
    assert_eq!(hub.requests().len(), asked);
    place.ok("train --config small.toml --data set --run-dir c");
    let weights = |run: &str| {
        std::fs::read(place.path(run).join("checkpoints/step-0000004/model.safetensors")).unwrap()
    };
    assert_eq!((weights("a"), weights("b")), (weights("c"), weights("c")));
}
