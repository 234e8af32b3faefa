//! Merges presets, models and configuration files into one configuration.

use std::path::PathBuf;

use diffusion_model::{ModelDescription, Objective};
use toml::Table;

use super::description::fields_of;
use super::{ConfigError, TrainConfig};

/// The text of a configuration file, which overrides fields of a preset.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    /// The path of the file, for error messages.
    pub path: PathBuf,
    /// The text, TOML.
    pub text: String,
}

impl ConfigSource {
    /// Whether the text sets the field at `path`, a list of nested names.
    pub fn sets(&self, path: &[&str]) -> bool {
        let Ok(table) = parse(self) else { return false };
        let mut value = toml::Value::Table(table);
        path.iter().all(|name| match value.get(name).cloned() {
            Some(inner) => {
                value = inner;
                true
            }
            None => false,
        })
    }
}

/// The names of the presets.
pub(super) const PRESET_NAMES: [&str; 5] =
    ["mnist", "digits-attn", "colour-32", "cifar10", "tutorial"];

/// The default preset, `mnist`.
pub const DEFAULT_PRESET: &str = PRESET_NAMES[0];

const PRESETS: [(&str, &str); 5] = [
    (PRESET_NAMES[0], include_str!("presets/mnist.toml")),
    (PRESET_NAMES[1], include_str!("presets/digits-attn.toml")),
    (PRESET_NAMES[2], include_str!("presets/colour-32.toml")),
    (PRESET_NAMES[3], include_str!("presets/cifar10.toml")),
    (PRESET_NAMES[4], include_str!("presets/tutorial.toml")),
];

/// The value of `parallel_parts` in runs of versions without this field.
pub(super) const EARLIER_PARALLEL_PARTS: usize = 1;

/// The fields that set the length of the training. A file that sets one of them clears the others.
const LENGTH_FIELDS: [&str; 3] = ["steps", "epochs", "max_minutes"];

impl TrainConfig {
    /// A preset by name: `mnist`, `digits-attn`, `colour-32`, `cifar10` or `tutorial`.
    ///
    /// # Errors
    /// If there is no preset of this name.
    pub fn preset(name: &str) -> Result<Self, ConfigError> {
        Self::layered(name, None)
    }

    /// A preset with the fields of `file` merged over it.
    ///
    /// # Errors
    /// If the preset is unknown; if the text is not TOML; if a field is unknown or has a wrong
    /// type. The error names the line and the most similar known field.
    pub fn layered(preset: &str, file: Option<&ConfigSource>) -> Result<Self, ConfigError> {
        Self::layered_on(preset, None, file)
    }

    /// Like [`layered`](Self::layered), with the fields of `model` between the preset and the file.
    ///
    /// # Errors
    /// If the preset is unknown; if the text is not TOML; if a field is unknown or has a wrong
    /// type; if the model cannot be written as TOML.
    pub fn layered_on(
        preset: &str,
        model: Option<&ModelDescription>,
        file: Option<&ConfigSource>,
    ) -> Result<Self, ConfigError> {
        let Some((_, text)) = PRESETS.iter().find(|(name, _)| *name == preset) else {
            return Err(ConfigError::UnknownPreset { name: preset.to_owned() });
        };
        let preset_name = PathBuf::from(format!("preset {preset}"));
        let mut table = parse(&ConfigSource { path: preset_name, text: (*text).to_owned() })?;
        if let Some(model) = model {
            // Replaces whole fields, so that no setting of the preset's network remains.
            table.extend(fields_of(model)?);
        }
        if let Some(file) = file {
            let over = parse(file)?;
            if LENGTH_FIELDS.iter().any(|field| over.contains_key(*field)) {
                table.retain(|key, _| !LENGTH_FIELDS.contains(&key));
            }
            check_betas(&table, &over, file)?;
            merge(&mut table, over);
        }
        let table = toml::Value::Table(table);
        serde_path_to_error::deserialize(table).map_err(|e| match file {
            Some(file) => explain(e.inner(), &e.path().to_string(), file),
            None => ConfigError::Text {
                place: format!("preset {preset}"),
                problem: e.inner().message().to_owned(),
            },
        })
    }

    /// Reads a complete configuration, as saved with a run.
    ///
    /// # Errors
    /// If the text is not TOML or not a configuration.
    pub fn from_source(source: &ConfigSource) -> Result<Self, ConfigError> {
        let deserializer =
            toml::Deserializer::parse(&source.text).map_err(|e| explain(&e, "", source))?;
        let config: Self = serde_path_to_error::deserialize(deserializer)
            .map_err(|e| explain(e.inner(), &e.path().to_string(), source))?;
        let parallel_parts = if parse(source)?.contains_key("parallel_parts") {
            config.parallel_parts
        } else {
            EARLIER_PARALLEL_PARTS
        };
        Ok(Self { parallel_parts, ..config })
    }

    /// The configuration as TOML, which [`from_source`](Self::from_source) reads.
    ///
    /// # Errors
    /// If a number does not fit TOML: a seed above 2⁶³ − 1.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(self).map_err(|e| ConfigError::Text {
            place: "configuration".to_owned(),
            problem: format!("cannot be written as TOML: {e}"),
        })
    }

    /// The training objective: diffusion, flow or EDM.
    ///
    /// # Errors
    /// If the noise schedule is invalid.
    pub fn objective(&self) -> Result<Objective, ConfigError> {
        Ok(Objective::new(&self.schedule, self.prediction_type, self.edm)?)
    }
}

fn parse(source: &ConfigSource) -> Result<Table, ConfigError> {
    source.text.parse().map_err(|e: toml::de::Error| explain(&e, "", source))
}

/// Fails if `over` sets β values for the cosine schedule, which has none.
fn check_betas(base: &Table, over: &Table, file: &ConfigSource) -> Result<(), ConfigError> {
    fn field<'a>(table: &'a Table, name: &str) -> Option<&'a toml::Value> {
        table.get("schedule")?.get(name)
    }
    let kind =
        field(over, "beta_schedule").or(field(base, "beta_schedule")).and_then(toml::Value::as_str);
    let end = ["beta_start", "beta_end"].into_iter().find(|end| field(over, end).is_some());
    match (end, kind) {
        (Some(end), Some("squaredcos_cap_v2")) => Err(ConfigError::Text {
            place: file.path.display().to_string(),
            problem: format!(
                "schedule.{end} is not supported by the cosine schedule; also set \
                 beta_schedule = \"linear\""
            ),
        }),
        _ => Ok(()),
    }
}

/// Merges `over` into `base`, table by table.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            // A table of another `kind` replaces the old one, so that none of its fields remain.
            (Some(toml::Value::Table(base)), toml::Value::Table(over))
                if same_kind(base, &over) =>
            {
                merge(base, over);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn same_kind(base: &Table, over: &Table) -> bool {
    over.get("kind").is_none_or(|kind| base.get("kind") == Some(kind))
}

/// Adds the line and the key of the error and, for a misspelt name, the most similar known one.
/// `key` is the path of the key, such as `lr_schedule.decay`, or empty.
fn explain(error: &toml::de::Error, key: &str, source: &ConfigSource) -> ConfigError {
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown ").then(|| quoted.next()).flatten();
    let line = match (error.span(), unknown) {
        (Some(span), _) => {
            Some(source.text[..span.start.min(source.text.len())].matches('\n').count() + 1)
        }
        // The merged tables have no line numbers, so search for the name.
        (None, name) => {
            let name = name.or(key.rsplit('.').next()).filter(|name| !name.is_empty());
            let has_name = |line: &str| name.is_some_and(|name| line.contains(name));
            source.text.lines().position(has_name).map(|i| i + 1)
        }
    };
    let problem = match unknown {
        Some(name) => {
            let known: Vec<&str> = quoted.collect();
            let nearest = known
                .iter()
                .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
                .max_by(|a, b| a.0.total_cmp(&b.0));
            match nearest {
                Some((similarity, candidate)) if similarity > 0.75 => {
                    format!("unknown key or value `{name}`; did you mean `{candidate}`?")
                }
                _ => format!("unknown key or value `{name}`; known: {}", known.join(", ")),
            }
        }
        None if key.is_empty() || key == "." => message.to_owned(),
        None => format!("{key}: {}", in_words(message)),
    };
    let path = source.path.display();
    ConfigError::Text {
        place: line.map_or_else(|| path.to_string(), |line| format!("{path}:{line}")),
        problem,
    }
}
/// A message of serde with words in place of the names of Rust's types.
fn in_words(message: &str) -> String {
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("the key {field} is missing");
    }
    let Some((found, expected)) = message.rsplit_once(", expected ") else {
        return message.to_owned();
    };
    let expected = match expected {
        "usize" | "u64" | "u32" => "a whole number of at least 0",
        "f64" | "f32" => "a number",
        expected if expected.contains("tagged enum") => "a table with the key `kind`",
        expected if expected.starts_with("struct ") => "a table",
        expected => expected,
    };
    format!("expected {expected}, got {}", found.trim_start_matches("invalid type: "))
        .replace("invalid value: ", "")
}
