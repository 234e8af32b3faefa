use diffusion_model::{EdmConfig, Objective};
use diffusion_process::PredictionType;
use diffusion_train::{ConfigSource, LossWeighting, PixelError, TimestepSampling, TrainConfig};

fn layered(text: &str) -> TrainConfig {
    TrainConfig::layered(
        "mnist",
        Some(&ConfigSource { path: "my.toml".into(), text: text.to_owned() }),
    )
    .unwrap()
}

const EVERYTHING: &str = r#"
learned_variance = true
timestep_sampling = "importance"
offset_noise = 0.1
[loss]
error = { kind = "huber", delta = 0.5 }
weighting = { kind = "min_snr", gamma = 5.0 }
"#;

#[test]
fn settings_are_read_and_saved() {
    let config = layered(EVERYTHING);
    config.validate().unwrap();
    assert!(config.learned_variance);
    assert_eq!(config.timestep_sampling, TimestepSampling::Importance);
    assert_eq!(config.loss.error, PixelError::Huber { delta: 0.5 });
    assert_eq!(config.loss.weighting, LossWeighting::MinSnr { gamma: 5.0 });
    let edm = layered("[edm]\np_mean = -0.4\n");
    edm.validate().unwrap();
    let expected = EdmConfig { p_mean: -0.4, ..EdmConfig::default() };
    assert_eq!(edm.objective().unwrap(), Objective::Edm(expected));
    let flow = layered("prediction_type = \"flow_prediction\"");
    flow.validate().unwrap();
    assert_eq!(flow.objective().unwrap(), Objective::Flow);
    for config in [config, edm, flow] {
        let text = config.to_toml().unwrap();
        assert_eq!(
            TrainConfig::from_source(&ConfigSource { path: "saved".into(), text }).unwrap(),
            config
        );
    }
}

#[test]
fn a_run_from_before_these_settings_keeps_its_hash_and_each_setting_changes_it() {
    // The preset as it was before these settings existed.
    let mut old = layered(
        "conditional = \"never\"\n[schedule]\nbeta_schedule = \"linear\"\nbeta_start = 5e-4\nbeta_end = 0.1\n[optimizer]\nmuon = false\n",
    );
    (old.size, old.batch_size, old.parallel_parts) = (Some(8), 4, 1);
    assert!(
        old.has_hash("f2a7c57ae122af92970695fead365da98bbf346124f03a445c504a64bc4d8895").unwrap()
    );
    let changed = EVERYTHING.lines().filter(|line| line.contains('=')).map(|line| {
        if line.starts_with("error") || line.starts_with("weighting") {
            format!("[loss]\n{line}")
        } else {
            line.to_owned()
        }
    });
    let others = [
        "conditional = \"always\"",
        "class_dropout = 0.2",
        "[edm]",
        "[network]\nout_channels = 1",
        "loss.weighting = { kind = \"p2\", k = 1.0, gamma = 1.0 }",
    ];
    let mut hashes: Vec<String> = changed
        .chain(others.map(str::to_owned))
        .map(|text| layered(&text).hash().unwrap())
        .collect();
    hashes.push(layered("").hash().unwrap());
    let count = hashes.len();
    hashes.sort();
    hashes.dedup();
    assert_eq!((hashes.len(), count), (11, 11));
}

#[test]
fn settings_that_cannot_be_trained_are_named_by_field() {
    let flow = "prediction_type = \"flow_prediction\"\n";
    let cases = [
        (
            "loss.error.delta is 0; it must be a number above 0",
            "loss.error = { kind = \"huber\", delta = 0.0 }",
        ),
        ("loss.weighting.gamma is -1", "loss.weighting = { kind = \"min_snr\", gamma = -1.0 }"),
        ("loss.weighting.k is 0", "loss.weighting = { kind = \"p2\", k = 0.0, gamma = 1.0 }"),
        ("offset_noise is NaN", "offset_noise = nan"),
        ("edm.sigma_data is 0", "[edm]\nsigma_data = 0.0"),
        ("edm.p_std is 11; it must be above 0 and at most 10", "[edm]\np_std = 11.0"),
        ("edm.p_mean is inf", "[edm]\np_mean = inf"),
        (
            "prediction_type is flow_prediction; leave it out or remove [edm]",
            &format!("{flow}[edm]"),
        ),
        (
            "loss.weighting is min_snr; it must be none: flow models have no schedule",
            &format!("{flow}loss.weighting = {{ kind = \"min_snr\", gamma = 5.0 }}"),
        ),
        ("loss.weighting is p2", "loss.weighting = { kind = \"p2\", k = 1.0, gamma = 1.0 }\n[edm]"),
        ("timestep_sampling is importance", "timestep_sampling = \"importance\"\n[edm]"),
        (
            "learned_variance is true; it must be false: flow",
            &format!("{flow}learned_variance = true"),
        ),
        (
            "prediction_type is epsilon; with schedule.rescale_betas_zero_snr it must be v_prediction or sample",
            "prediction_type = \"epsilon\"\n[schedule]\nrescale_betas_zero_snr = true",
        ),
        ("sample_grid.variance is learned_range", "[sample_grid]\nvariance = \"learned_range\""),
    ];
    for (expected, text) in cases {
        let error = layered(text).validate().unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let zero_snr = layered("[schedule]\nrescale_betas_zero_snr = true");
    assert_eq!(zero_snr.prediction_type, PredictionType::VPrediction);
    zero_snr.validate().unwrap();
}
