//! What a training is, as data: presets, files and flags become one [`TrainConfig`].

use std::path::PathBuf;

use diffusion_data::PictureConfig;
use diffusion_process::PredictionType;
use diffusion_sample::{SamplerKind, VarianceType};
use diffusion_schedule::ScheduleConfig;
use diffusion_unet::{NetworkConfig, SimpleUNetConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use toml::Table;

use crate::adopt::fields_of;
use crate::{
    AdamWConfig, Conditional, EdmConfig, EmaConfig, LossConfig, LrSchedule, ModelDescription, Objective,
    TimestepSampling,
};

/// A whole training. Training ends at the first of `steps`, `epochs` and `max_minutes` that is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// The folder or file of the pictures; none: whatever the caller takes for its default.
    pub data: Option<PathBuf>,
    /// Bring the pictures to this height and width; none: leave them as they are.
    pub size: Option<usize>,
    /// How pictures are brought to that size, and which of them are taken. What does not concern the loader (`flip` and
    /// `repeat`) is done by whoever prepares the data set.
    pub pictures: PictureConfig,
    /// The seed of weights, order, noise and timesteps.
    pub seed: u64,
    /// Updates to make, at least 1.
    pub steps: Option<u64>,
    /// Passes over the data, at least 1.
    pub epochs: Option<u64>,
    /// Minutes to train for, above 0; a resumed training counts the minutes that it had. The learning rate then follows
    /// the clock, so two such runs differ; give `steps` to repeat a run exactly.
    pub max_minutes: Option<f64>,
    /// Images in an update.
    pub batch_size: usize,
    /// Parts in which a batch is computed to save memory; must divide `batch_size`.
    pub accumulate: usize,
    /// What the network learns to say. `flow_prediction` makes the model one of flow matching, which needs no schedule.
    pub prediction_type: PredictionType,
    /// Have the network learn the variance of the reverse steps too: its output gets twice the channels (Nichol & Dhariwal
    /// 2021).
    pub learned_variance: bool,
    /// Whether the network is told each picture's class.
    pub conditional: Conditional,
    /// The share of pictures whose class it is not told, in [0, 1), so that it knows pictures of no class in particular too, as
    /// classifier-free guidance needs (Ho & Salimans 2022). Pictures without a label are never told one.
    pub class_dropout: f64,
    /// How the noise levels of a batch are drawn.
    pub timestep_sampling: TimestepSampling,
    /// Adds this times a normal number, one for each image and channel, to the noise of every pixel, so that the network
    /// learns to change the brightness of a whole image; 0: none.
    pub offset_noise: f64,
    /// The largest norm of the gradient; none: no clipping.
    pub clip_grad_norm: Option<f64>,
    /// The network. Its channels and the size of the images come from the data.
    pub network: NetworkConfig,
    /// The forward process of a diffusion.
    pub schedule: ScheduleConfig,
    /// Given, the model is one of Karras et al. 2022: neither `schedule` nor `prediction_type` is used then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edm: Option<EdmConfig>,
    /// What is minimised.
    pub loss: LossConfig,
    /// AdamW.
    pub optimizer: AdamWConfig,
    /// The learning rate over time.
    pub lr_schedule: LrSchedule,
    /// The moving average of the weights.
    pub ema: EmaConfig,
    /// What is saved, and when.
    pub checkpoint: CheckpointConfig,
    /// Pictures on the way.
    pub sample_grid: SampleGridConfig,
}

/// When to save. The last step is always saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between checkpoints, at least 1.
    pub every: u64,
    /// Checkpoints to keep, the newest; at least 1.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 100, keep: 3 }
    }
}

/// Grids of samples from the same noise, so that one sees the same images form. The last step always gives one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleGridConfig {
    /// Steps between grids; 0: only at the end.
    pub every: u64,
    /// Images in a grid; 0: no grids.
    pub num: u64,
    /// The sampler, by its name on the command line; none: the one that `sample` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerKind>,
    /// Sampling steps, at least 1; more than the schedule has: all of its steps; none: as many as `sample` takes.
    pub steps: Option<usize>,
    /// The variance of a diffusion's reverse steps, where the network does not learn its own.
    pub variance: VarianceType,
    /// Cut the predicted image to its range at each step.
    pub clip_denoised: bool,
}

impl Default for SampleGridConfig {
    fn default() -> Self {
        Self {
            every: 100,
            num: 16,
            sampler: None,
            steps: None,
            variance: VarianceType::default(),
            clip_denoised: true,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            data: None,
            size: None,
            pictures: PictureConfig::default(),
            seed: 0,
            steps: None,
            epochs: None,
            max_minutes: None,
            batch_size: 64,
            accumulate: 1,
            prediction_type: PredictionType::default(),
            learned_variance: false,
            conditional: Conditional::default(),
            class_dropout: 0.1,
            timestep_sampling: TimestepSampling::default(),
            offset_noise: 0.0,
            clip_grad_norm: None,
            network: NetworkConfig::SimpleUnet(SimpleUNetConfig {
                in_channels: 1,
                base_channels: 32,
                time_dim: 128,
                ..SimpleUNetConfig::default()
            }),
            schedule: ScheduleConfig::linear_scaled_to(200),
            edm: None,
            loss: LossConfig::default(),
            optimizer: AdamWConfig::default(),
            lr_schedule: LrSchedule::default(),
            ema: EmaConfig::default(),
            checkpoint: CheckpointConfig::default(),
            sample_grid: SampleGridConfig::default(),
        }
    }
}

/// Why a configuration cannot be trained.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// No preset of that name.
    #[error("there is no preset `{name}`; there are {}", PRESETS.map(|(name, _)| name).join(", "))]
    UnknownPreset {
        /// The name asked for.
        name: String,
    },
    /// Text that is not TOML, or not a configuration.
    #[error("{place}: {problem}")]
    Text {
        /// The file, with the line where it is known.
        place: String,
        /// One sentence.
        problem: String,
    },
    /// A field outside its range.
    #[error("{field} is {value}; {expected}")]
    Field {
        /// The field, dotted.
        field: &'static str,
        /// What it is.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// The schedule's own error.
    #[error("schedule: {0}")]
    Schedule(#[from] diffusion_schedule::ScheduleError),
}

/// A text that overrides fields of a preset.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    /// The file it came from, for errors.
    pub path: PathBuf,
    /// TOML.
    pub text: String,
}

const PRESETS: [(&str, &str); 4] = [
    ("mnist", include_str!("../presets/mnist.toml")),
    ("digits-attn", include_str!("../presets/digits-attn.toml")),
    ("cifar10", include_str!("../presets/cifar10.toml")),
    ("tutorial", include_str!("../presets/tutorial.toml")),
];

/// The fields that say when to stop. A source that sets one of them replaces them all.
const LENGTH_FIELDS: [&str; 3] = ["steps", "epochs", "max_minutes"];

impl TrainConfig {
    /// A preset by name: `mnist`, `digits-attn`, `cifar10` or `tutorial`.
    ///
    /// # Errors
    /// Another name.
    pub fn preset(name: &str) -> Result<Self, ConfigError> {
        Self::layered(name, None)
    }

    /// A preset with the fields of `file` over it.
    ///
    /// # Errors
    /// An unknown preset; a text that is not TOML; an unknown field, with its line and the nearest known name.
    pub fn layered(preset: &str, file: Option<&ConfigSource>) -> Result<Self, ConfigError> {
        Self::layered_on(preset, None, file)
    }

    /// As [`layered`](Self::layered), with what `model` says between the preset and the file.
    ///
    /// # Errors
    /// As there.
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
            // Whole fields: nothing of the preset's network may shine through.
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
        table.try_into().map_err(|e: toml::de::Error| match file {
            Some(file) => explain(&e, file),
            None => ConfigError::Text { place: format!("preset {preset}"), problem: e.message().to_owned() },
        })
    }

    /// A complete configuration, as saved with a run.
    ///
    /// # Errors
    /// A text that is not TOML or not a configuration.
    pub fn from_source(source: &ConfigSource) -> Result<Self, ConfigError> {
        toml::from_str(&source.text).map_err(|e| explain(&e, source))
    }

    /// The text that [`from_source`](Self::from_source) reads back.
    ///
    /// # Errors
    /// None for a configuration whose numbers fit TOML (a seed up to 2⁶³ − 1).
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(self).map_err(|e| ConfigError::Text {
            place: "configuration".to_owned(),
            problem: format!("cannot be written as TOML: {e}"),
        })
    }

    /// The process that is trained.
    ///
    /// # Errors
    /// A schedule that cannot be built.
    pub fn objective(&self) -> Result<Objective, ConfigError> {
        Ok(Objective::new(&self.schedule, self.prediction_type, self.edm)?)
    }

    /// A hash of every field that determines the numbers of the training: all but when it ends, what it saves and draws,
    /// and where the data is (whose own fingerprint is kept beside this hash).
    pub fn hash(&self) -> String {
        let mut numbers = self.clone();
        numbers.data = None;
        numbers.steps = None;
        numbers.epochs = None;
        numbers.max_minutes = None;
        numbers.checkpoint = CheckpointConfig::default();
        numbers.sample_grid = SampleGridConfig::default();
        // How much damage is put up with changes no number.
        numbers.pictures.max_bad = PictureConfig::default().max_bad;
        // The debug form names every field and writes floats so that they read back the same. Fields that came later are
        // left out while they have the value they had before they came, so that older runs keep their hash.
        let later = [
            ("learned_variance", format!("{:?}", false)),
            ("timestep_sampling", format!("{:?}", TimestepSampling::default())),
            ("offset_noise", format!("{:?}", 0.0)),
            ("edm", "None".to_owned()),
            ("loss", format!("{:?}", LossConfig::default())),
            ("out_channels", "None".to_owned()),
            ("patch_size", "1".to_owned()),
            ("muon", "false".to_owned()),
            ("sampler", "None".to_owned()),
            ("conditional", "Never".to_owned()),
            ("class_dropout", "0.1".to_owned()),
            ("num_class_embeds: None, null_class", "false".to_owned()),
            ("null_class", "false".to_owned()),
            ("pictures", format!("{:?}", PictureConfig::default())),
        ];
        let text = later.iter().fold(format!("{numbers:?}"), |text, (field, unset)| {
            text.replace(&format!(", {field}: {unset}"), "")
        });
        let digest = Sha256::digest(text);
        digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }
}

fn parse(source: &ConfigSource) -> Result<Table, ConfigError> {
    source.text.parse().map_err(|e: toml::de::Error| explain(&e, source))
}

/// Refuses ends of β over a schedule that has none.
fn check_betas(base: &Table, over: &Table, file: &ConfigSource) -> Result<(), ConfigError> {
    fn field<'a>(table: &'a Table, name: &str) -> Option<&'a toml::Value> {
        table.get("schedule")?.get(name)
    }
    let kind = field(over, "beta_schedule").or(field(base, "beta_schedule")).and_then(toml::Value::as_str);
    let end = ["beta_start", "beta_end"].into_iter().find(|end| field(over, end).is_some());
    match (end, kind) {
        (Some(end), Some("squaredcos_cap_v2")) => Err(ConfigError::Text {
            place: file.path.display().to_string(),
            problem: format!(
                "schedule.{end} means nothing to the cosine schedule; say beta_schedule = \"linear\" too"
            ),
        }),
        _ => Ok(()),
    }
}

/// Puts `over` on `base`, table by table.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            // A table with another `kind` is another thing: nothing of the old one may shine through.
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) if same_kind(base, &over) => {
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

/// Says where in the file the error is, and what a misspelt name was meant to be.
fn explain(error: &toml::de::Error, source: &ConfigSource) -> ConfigError {
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown ").then(|| quoted.next()).flatten();
    let line = match (error.span(), unknown) {
        (Some(span), _) => Some(source.text[..span.start.min(source.text.len())].matches('\n').count() + 1),
        // A name from the merged tables has no place of its own; look for it.
        (None, Some(name)) => source.text.lines().position(|line| line.contains(name)).map(|i| i + 1),
        (None, None) => None,
    };
    let problem = match unknown {
        Some(name) => {
            let known: Vec<&str> = quoted.collect();
            let nearest = known
                .iter()
                .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
                .max_by(|a, b| a.0.total_cmp(&b.0));
            match nearest {
                Some((likeness, candidate)) if likeness > 0.75 => {
                    format!("unknown key or value `{name}`; did you mean `{candidate}`?")
                }
                _ => format!("unknown key or value `{name}`; known here are {}", known.join(", ")),
            }
        }
        None => message.to_owned(),
    };
    let path = source.path.display();
    ConfigError::Text {
        place: line.map_or_else(|| path.to_string(), |line| format!("{path}:{line}")),
        problem,
    }
}
