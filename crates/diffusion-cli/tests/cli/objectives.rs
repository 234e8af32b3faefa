use std::fs;

use crate::common::{TestDir, names};

/// A run of the small model for two steps, with `first` before the tables of its configuration and
/// `last` after them.
fn train(place: &TestDir, run: &str, first: &str, last: &str) {
    place.small_config();
    let small = fs::read_to_string(place.path("small.toml")).unwrap();
    place.write("c.toml", format!("{first}\n{small}\n{last}\n"));
    place.ok(&format!("train --config c.toml --run-dir {run} --steps 2"));
}

#[test]
fn flows_and_edm_are_trained_described_and_sampled_along_their_own_paths() {
    let place = TestDir::new();
    train(&place, "flow", "prediction_type = \"flow_prediction\"", "");
    train(&place, "edm", "", "[edm]\np_mean = -1.0");
    for (run, steps, described, kind) in [
        ("flow", 25, "process          flow", "a flow model"),
        ("edm", 18, "ln sigma ~ N(-1, 1.2²), sigma_data 0.5", "an EDM model"),
    ] {
        let info = place.ok(&format!("info --run {run}"));
        assert!(info.out.contains(described) && !info.out.contains("schedule"), "{}", info.out);
        let answer = place.ok(&format!("sample --run {run} --num 2 --out {run}-out"));
        assert!(answer.out.contains(&format!("({steps} steps each")), "{}", answer.out);
        assert!(!answer.err.contains("signal-to-noise"), "{}", answer.err);
        assert_eq!(names(&place.path(&format!("{run}-out"))).len(), 2);
        place
            .ok(&format!("sample --run {run} --num 1 --sampler euler --steps 40 --out {run}-more"));
        place.refuses(
            &format!("sample --run {run} --sampler ddpm"),
            2,
            &["ddpm needs a schedule", &format!("this is {kind}: use ")],
        );
        place.ok(&format!("train --run-dir {run} --resume --steps 3"));
    }
    place.refuses(
        "sample --run edm --sampler flow-heun",
        2,
        &["needs a flow model", "this is an EDM model"],
    );
    place.train_small("plain", 1);
    place.refuses("sample --run plain --sampler flow-euler", 2, &["this is a diffusion model"]);
}

#[test]
fn sampling_uses_a_learned_variance_by_default() {
    let place = TestDir::new();
    train(&place, "learned", "learned_variance = true", "");
    let info = place.ok("info --run learned");
    assert!(info.out.contains("variance         learned"), "{}", info.out);
    let first = |flags: &str, out: &str| {
        place.ok(&format!("sample --run learned --num 1 --format npy --out {out} {flags}"));
        fs::read(place.path(out).join("samples.npy")).unwrap()
    };
    let by_itself = first("", "a");
    assert!(by_itself == first("--variance learned-range", "b"));
    assert!(by_itself != first("--variance fixed-small", "c"));
    place.train_small("plain", 1);
    place.refuses(
        "sample --run plain --variance learned-range",
        2,
        &["has not learned a variance"],
    );
}

#[test]
fn settings_that_contradict_each_other_are_usage_errors() {
    let place = TestDir::new();
    place.write(
        "c.toml",
        "prediction_type = \"epsilon\"\n[schedule]\nrescale_betas_zero_snr = true\n",
    );
    place.refuses(
        "train --config c.toml",
        2,
        &["prediction_type is epsilon", "v_prediction or sample"],
    );
    place.write("c.toml", "[loss]\nweighting = { kind = \"min_snr\", gama = 5.0 }\n");
    place.refuses("train --config c.toml", 2, &["gama"]);
    place.write("c.toml", "timestep_samplin = \"importance\"\n");
    place.refuses("train --config c.toml", 2, &["did you mean `timestep_sampling`?"]);
}
