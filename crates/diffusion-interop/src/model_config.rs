//! The `config.json` of a `UNet2DModel`.

use diffusion_unet::UNet2DConfig;
use serde_json::{Map, Value, json};

/// The class of the model.
pub(crate) const CLASS: &str = "UNet2DModel";

/// The settings that are fixed in `UNet2D`, with their supported values. The first value is
/// written.
fn fixed_settings() -> [(&'static str, Vec<Value>); 5] {
    [
        ("_class_name", vec![json!(CLASS)]),
        ("act_fn", vec![json!("silu"), json!("swish")]),
        ("class_embed_type", vec![Value::Null]),
        ("mid_block_type", vec![json!("UNetMidBlock2D")]),
        ("num_train_timesteps", vec![Value::Null]),
    ]
}

/// The default of `attention_head_dim` in diffusers.
const ATTENTION_HEAD_DIM: usize = 8;

/// The prefix of the block types in the first versions of diffusers.
const OLD_PREFIX: &str = "UNetRes";
/// The settings of the moving average that diffusers' `EMAModel` adds to the file, and one of the
/// first versions without a meaning.
const OTHER_SETTINGS: [&str; 9] = [
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
    "collected_params",
    "tensor_format",
];
/// A setting that is written as a whole number if it is one.
const SCALE_FACTOR: &str = "mid_block_scale_factor";

/// Height and width of the images, if the file has them.
pub(crate) type SampleSize = Option<[usize; 2]>;

/// The network's configuration and the image size, from the settings in the file.
///
/// # Errors
/// If a key is unknown or its value is not supported; the message names the key.
pub(crate) fn read(fields: &Map<String, Value>) -> Result<(UNet2DConfig, SampleSize), String> {
    let mut fields = fields.clone();
    fields.retain(|key, _| !OTHER_SETTINGS.contains(&key.as_str()));
    translate(&mut fields);
    for (key, supported) in fixed_settings() {
        if let Some(value) = fields.remove(key).filter(|value| !supported.contains(value)) {
            return Err(format!("`{key}` is {value}; only {} is supported", supported[0]));
        }
    }
    let size = sample_size(fields.remove("sample_size").as_ref())?;
    // Information for diffusers: its version, the name of the hub's repository.
    fields.retain(|key, _| !key.starts_with('_'));
    fields.entry("attention_head_dim").or_insert(json!(ATTENTION_HEAD_DIM));
    // A setting with its default value may be left out.
    let known =
        config_fields(&UNet2DConfig { mid_block_scale_factor: 2.0, ..UNet2DConfig::default() });
    for (key, value) in &fields {
        if !known.contains_key(key) {
            return Err(format!("`{key}` is not a setting of {CLASS} that this program knows"));
        }
        // Each key alone, so that the message can name it.
        serde_json::from_value::<UNet2DConfig>(json!({ key: value }))
            .map_err(|e| format!("`{key}`: {e}"))?;
    }
    let config = serde_json::from_value(fields.into()).map_err(|e| e.to_string())?;
    Ok((config, size))
}

/// Replaces the names of the first versions of diffusers.
fn translate(fields: &mut Map<String, Value>) {
    let current = |name: &mut Value| {
        if let Some(rest) = name.as_str().and_then(|name| name.strip_prefix(OLD_PREFIX)) {
            *name = json!(rest);
        }
    };
    for key in ["down_block_types", "up_block_types"] {
        if let Some(Value::Array(types)) = fields.get_mut(key) {
            types.iter_mut().for_each(current);
        }
    }
    if fields.get("mid_block_type") == Some(&json!("UNetResMidBlock2D")) {
        fields.remove("mid_block_type");
    }
    if fields.get(SCALE_FACTOR).is_some_and(Value::is_null) {
        fields.remove(SCALE_FACTOR);
    }
}

/// The settings for the file, from the network's configuration and the image size.
pub(crate) fn write(
    config: &UNet2DConfig,
    [height, width]: [usize; 2],
    version: &str,
) -> Map<String, Value> {
    let mut fields = config_fields(config);
    fields.remove("zero_init_output");
    fields.remove("null_class");
    fields.remove("augmentation");
    fields.extend(fixed_settings().map(|(key, values)| (key.to_owned(), values[0].clone())));
    let factor = config.mid_block_scale_factor;
    let is_whole = factor.fract() == 0.0 && factor < 1e15;
    let factor = if is_whole { json!(factor as u64) } else { json!(factor) };
    fields.insert(SCALE_FACTOR.to_owned(), factor);
    let size = if height == width { json!(height) } else { json!([height, width]) };
    fields.insert("sample_size".to_owned(), size);
    fields.insert("_diffusers_version".to_owned(), json!(version));
    fields
}

fn config_fields(config: &UNet2DConfig) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        // Not reached: a struct is serialised as an object.
        _ => Map::new(),
    }
}

fn sample_size(value: Option<&Value>) -> Result<SampleSize, String> {
    let side = |value: &Value| value.as_u64().and_then(|side| usize::try_from(side).ok());
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match (side(value), value.as_array().map(Vec::as_slice)) {
            (Some(side), _) => Ok(Some([side, side])),
            (None, Some([height, width])) => match (side(height), side(width)) {
                (Some(height), Some(width)) => Ok(Some([height, width])),
                _ => Err(format!("`sample_size` is {value}; it must be one or two whole numbers")),
            },
            _ => Err(format!("`sample_size` is {value}; it must be one or two whole numbers")),
        },
    }
}

#[cfg(test)]
mod tests {
    use diffusion_unet::{DownBlockType, UpBlockType};

    use super::*;

    fn parse(value: &Value) -> Result<(UNet2DConfig, SampleSize), String> {
        read(value.as_object().unwrap())
    }

    #[test]
    fn a_missing_head_width_has_the_default_of_diffusers_and_null_means_one_head() {
        assert_eq!(parse(&json!({})).unwrap().0.attention_head_dim, Some(8));
        assert_eq!(
            parse(&json!({ "attention_head_dim": null })).unwrap().0.attention_head_dim,
            None
        );
    }

    #[test]
    fn a_written_configuration_can_be_read() {
        let config = UNet2DConfig {
            attention_head_dim: None,
            dropout: 0.25,
            mid_block_scale_factor: 2f64.sqrt(),
            ..UNet2DConfig::default()
        };
        for size in [[32, 32], [16, 24]] {
            assert_eq!(
                read(&write(&config, size, "0.42.1")).unwrap(),
                (config.clone(), Some(size))
            );
        }
    }

    #[test]
    fn errors_name_the_key() {
        for (fields, part) in [
            (json!({ "act_fn": "gelu" }), "`act_fn` is \"gelu\"; only \"silu\""),
            (json!({ "_class_name": "UNet2DConditionModel" }), "only \"UNet2DModel\""),
            (json!({ "cross_attention_dim": 8 }), "`cross_attention_dim` is not a setting"),
            (json!({ "class_embed_type": "timestep" }), "`class_embed_type`"),
            (json!({ "mid_block_type": null }), "`mid_block_type`"),
            (
                json!({ "up_block_types": ["SkipUpBlock2D"] }),
                "`up_block_types`: unknown variant `SkipUpBlock2D`",
            ),
            (json!({ "time_embedding_type": "learned" }), "`time_embedding_type`"),
            (json!({ "in_channels": -1 }), "`in_channels`"),
            (json!({ "sample_size": [1, 2, 3] }), "`sample_size` is [1,2,3]"),
            (json!({ "sample_size": 1.5 }), "`sample_size` is 1.5"),
        ] {
            let problem = parse(&fields).unwrap_err();
            assert!(problem.contains(part), "{fields}: {problem}");
        }
    }

    #[test]
    fn settings_of_old_versions_and_of_a_moving_average_are_read() {
        let fields = json!({
            "_class_name": "UNet2DModel", "down_block_types": ["UNetResDownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["UNetResAttnUpBlock2D", "UpBlock2D"], "block_out_channels": [8, 8],
            "norm_num_groups": 4, "tensor_format": "pt", "decay": 0.9999, "inv_gamma": 1.0,
            "min_decay": 0.0, "optimization_step": 500, "power": 0.75, "update_after_step": 0,
            "use_ema_warmup": true, "mid_block_scale_factor": 1.5,
        });
        let (config, _) = parse(&fields).unwrap();
        assert_eq!(
            (config.down_block_types[0], config.up_block_types[0]),
            (DownBlockType::DownBlock2D, UpBlockType::AttnUpBlock2D)
        );
        assert_eq!(config.mid_block_scale_factor, 1.5);
    }

    #[test]
    fn harmless_keys_are_accepted() {
        let fields = json!({
            "_diffusers_version": "0.1", "_name_or_path": "somewhere", "act_fn": "swish",
            "sample_size": null, "mid_block_scale_factor": 1.0, "class_embed_type": null,
            "num_train_timesteps": null,
        });
        assert_eq!(parse(&fields).unwrap().1, None);
    }
}
