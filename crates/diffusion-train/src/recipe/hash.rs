//! The hash that identifies the configuration of a checkpoint's training.

use diffusion_data::PictureConfig;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::layers::EARLIER_PARALLEL_PARTS;
use super::{CheckpointConfig, ConfigError, SampleGridConfig, TrainConfig, TrainingPrecision};
use crate::{LossConfig, TimestepSampling};

/// The version of the canonical form, the prefix of a hash. Hashes of the first version have no
/// prefix.
const VERSION: &str = "2:";

impl TrainConfig {
    /// A hash of every field that determines the numeric results of the training.
    ///
    /// It leaves out the length, the checkpoints, the sample grids and the path of the data; a
    /// checkpoint holds the data's own fingerprint.
    ///
    /// The canonical form is JSON with sorted keys, without the fields that have their default
    /// value. For a network that is the default of its kind, and for `parallel_parts` the value of
    /// earlier versions. A field added later therefore does not change the hashes of earlier runs.
    ///
    /// # Errors
    /// If the configuration cannot be written as JSON, which does not happen in practice.
    pub fn hash(&self) -> Result<String, ConfigError> {
        let json = |config: &Self| {
            serde_json::to_value(config).map_err(|e| ConfigError::Text {
                place: "configuration".to_owned(),
                problem: format!("cannot be written as JSON: {e}"),
            })
        };
        let base = Self { parallel_parts: EARLIER_PARALLEL_PARTS, ..Self::default() };
        let mut default = json(&Self { network: self.network.default_of_kind(), ..base.clone() })?;
        // Two networks with default values differ by their kind only, so it must be hashed.
        default["network"]["kind"] = json(&base)?["network"]["kind"].take();
        let canonical = difference(json(&self.numbers())?, &default);
        Ok(format!(
            "{VERSION}{}",
            sha256(&canonical.map_or_else(String::new, |value| sorted(&value)))
        ))
    }

    /// Whether `hash`, of this version or the first, is the hash of this configuration.
    ///
    /// # Errors
    /// If the configuration cannot be written as JSON, which does not happen in practice.
    pub fn has_hash(&self, hash: &str) -> Result<bool, ConfigError> {
        Ok(if hash.starts_with(VERSION) { self.hash()? == hash } else { self.first_hash() == hash })
    }

    /// The configuration with default values in the fields that do not affect numeric results.
    fn numbers(&self) -> Self {
        let mut numbers = self.clone();
        numbers.data = None;
        numbers.steps = None;
        numbers.epochs = None;
        numbers.max_minutes = None;
        numbers.checkpoint_activations = false;
        numbers.guidance_scale = None;
        numbers.checkpoint = CheckpointConfig::default();
        numbers.sample_grid = SampleGridConfig::default();
        // The number of damaged pictures that are tolerated.
        numbers.pictures.max_bad = PictureConfig::default().max_bad;
        numbers
    }

    /// The hash of the first version: of the structures' debug text, without later fields.
    ///
    /// A field added later is removed from the text while it has the value that means the earlier
    /// behaviour.
    fn first_hash(&self) -> String {
        let numbers = self.numbers();
        let later = [
            ("parallel_parts", EARLIER_PARALLEL_PARTS.to_string()),
            ("precision", format!("{:?}", TrainingPrecision::default())),
            ("checkpoint_activations", "false".to_owned()),
            ("learned_variance", format!("{:?}", false)),
            ("timestep_sampling", format!("{:?}", TimestepSampling::default())),
            ("offset_noise", format!("{:?}", 0.0)),
            ("edm", "None".to_owned()),
            ("loss", format!("{:?}", LossConfig::default())),
            ("out_channels", "None".to_owned()),
            ("patch_size", "1".to_owned()),
            ("mid_block_scale_factor", format!("{:?}", 1.0)),
            ("muon", "false".to_owned()),
            ("sampler", "None".to_owned()),
            ("conditional", "Never".to_owned()),
            ("class_dropout", "0.1".to_owned()),
            ("guidance_scale", "None".to_owned()),
            ("num_class_embeds: None, null_class", "false".to_owned()),
            ("null_class", "false".to_owned()),
            ("augmentation", "false".to_owned()),
            ("averages", "0".to_owned()),
            ("pictures", format!("{:?}", PictureConfig::default())),
            ("augment", format!("{:?}", 0.0)),
        ];
        let text = later.iter().fold(format!("{numbers:?}"), |text, (field, unset)| {
            // The end of the number must match, too.
            [", ", " }"]
                .into_iter()
                .fold(text, |text, end| text.replace(&format!(", {field}: {unset}{end}"), end))
        });
        sha256(&text)
    }
}

/// The parts of `value` that differ from `default`; `None` if they are equal.
fn difference(value: Value, default: &Value) -> Option<Value> {
    match (value, default) {
        (Value::Object(fields), Value::Object(defaults)) => {
            let different: Map<String, Value> = fields
                .into_iter()
                .filter_map(|(key, value)| {
                    let different = difference(value, defaults.get(&key).unwrap_or(&Value::Null))?;
                    Some((key, different))
                })
                .collect();
            (!different.is_empty()).then_some(Value::Object(different))
        }
        (value, default) => (value != *default).then_some(value),
    }
}

/// JSON with sorted keys.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            let fields: Vec<String> = fields
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), sorted(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        other => other.to_string(),
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use diffusion_unet::{NetworkConfig, UNet2DConfig};

    use super::*;
    use crate::ConfigSource;

    /// A preset as a run of an earlier version saved it, without the field `parallel_parts`.
    fn earlier(preset: &str) -> TrainConfig {
        let text = TrainConfig::preset(preset).unwrap().to_toml().unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("parallel_parts"));
        let text = lines.collect::<Vec<_>>().join("\n");
        let config =
            TrainConfig::from_source(&ConfigSource { path: "config.toml".into(), text }).unwrap();
        assert_eq!(config.parallel_parts, EARLIER_PARALLEL_PARTS);
        config
    }

    /// Hashes from checkpoints of the first version: each preset, trained on 128 digits.
    #[test]
    fn hashes_of_the_first_version_are_recognised() {
        for (preset, first) in FIRST {
            let mut config = earlier(preset);
            assert!(!config.has_hash(first).unwrap(), "{preset}");
            config.pictures.limit = Some(128);
            assert!(config.has_hash(first).unwrap(), "{preset}");
        }
    }

    /// A new field or a changed default must not change these hashes.
    #[test]
    fn hashes_of_this_version_stay() {
        for (preset, second) in SECOND {
            assert_eq!(earlier(preset).hash().unwrap(), second, "{preset}");
        }
        let now = "2:c66de7e8388285a1f9bc4512aef155690302a9103bfe59119e5e685c517f150e";
        assert_eq!(TrainConfig::preset("mnist").unwrap().hash().unwrap(), now);
    }

    #[test]
    fn only_fields_that_change_results_change_the_hash() {
        let config = TrainConfig::preset("mnist").unwrap();
        let hash = config.hash().unwrap();
        assert!(config.has_hash(&hash).unwrap());
        let longer = TrainConfig {
            steps: Some(9),
            data: Some("elsewhere".into()),
            guidance_scale: Some(2.0),
            ..config.clone()
        };
        assert_eq!(longer.hash().unwrap(), hash);
        let mut hashes = HashSet::from([hash]);
        for other in [
            TrainConfig { batch_size: 33, ..config.clone() },
            TrainConfig { parallel_parts: 3, ..config.clone() },
            TrainConfig {
                network: TrainConfig::default().network,
                class_dropout: 0.2,
                ..config.clone()
            },
            TrainConfig::preset("digits-attn").unwrap(),
            TrainConfig::default(),
            TrainConfig {
                network: NetworkConfig::Unet2d(UNet2DConfig::default()),
                ..TrainConfig::default()
            },
        ] {
            assert!(hashes.insert(other.hash().unwrap()), "{other:?}");
        }
    }

    #[test]
    fn defaults_are_left_out_and_keys_are_sorted() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let default = json(r#"{"b": 1, "a": {"kind": "x", "c": 2.5}, "d": null}"#);
        let value = json(r#"{"b": 2, "a": {"kind": "x", "c": 2.5}, "d": null, "new": null}"#);
        assert_eq!(sorted(&difference(value, &default).unwrap()), r#"{"b":2}"#);
        let value = json(r#"{"b": 1, "a": {"kind": "y", "c": 2.5}, "d": [1]}"#);
        let expected = r#"{"a":{"kind":"y"},"d":[1]}"#;
        assert_eq!(sorted(&difference(value, &default).unwrap()), expected);
    }

    const SECOND: [(&str, &str); 4] = [
        ("mnist", "2:2684241759cd172b509d316aab01836bad75503e2a17c09d80bc8af667d48702"),
        ("digits-attn", "2:a92317941b54811d3a87b49f0feb5c3f29c0819ff77a3942c5767d6de8a84a78"),
        ("cifar10", "2:edb3934598fbdd402b2a64cfccc5d154d2d02b2d2664558a42f513805f6fccc2"),
        ("tutorial", "2:99a073326857d1392c127b881a5b5a309d90b66b35c635b7b63eaa74758a75d7"),
    ];

    const FIRST: [(&str, &str); 4] = [
        ("mnist", "1afe0ac5d726b5101ca7f562f79a839dd57896e6d1a1cf10082de0919580866e"),
        ("digits-attn", "e045d3f2c7e7ed82c95e91586aa3923e2f43bdd87324e0597777023c8e61d704"),
        ("cifar10", "c4a015ec09118d8f177c9afd6ba793099912a49ef6f24d33cfb719823a59f8ba"),
        ("tutorial", "5f4a45951432832e17d87832f819c696d423be4899619e2a7a397dd9deda37d2"),
    ];
}
