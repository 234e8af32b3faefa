//! What a training is, as data: presets, files and flags become one [`TrainConfig`].

use std::path::PathBuf;

use diffusion_process::PredictionType;
use diffusion_sample::VarianceType;
use diffusion_schedule::ScheduleConfig;
use diffusion_unet::{NetworkConfig, SimpleUNetConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use toml::Table;

use crate::adopt::fields_of;
use crate::{AdamWConfig, EmaConfig, LrDecay, LrSchedule, ModelDescription};

/// A whole training. Training ends at the first of `steps`, `epochs` and `max_minutes` that is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// The folder or file of the pictures; none: whatever the caller takes for its default.
    pub data: Option<PathBuf>,
    /// Bring the pictures to this height and width; none: leave them as they are.
    pub size: Option<usize>,
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
    /// What the network learns to say.
    pub prediction_type: PredictionType,
    /// The largest norm of the gradient; none: no clipping.
    pub clip_grad_norm: Option<f64>,
    /// The network. Its channels and the size of the images come from the data.
    pub network: NetworkConfig,
    /// The forward process.
    pub schedule: ScheduleConfig,
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
    /// Sampling steps, at least 1; none, or more than the schedule has: all of its steps.
    pub steps: Option<usize>,
    /// The variance of the reverse steps.
    pub variance: VarianceType,
    /// Cut the predicted image to its range at each step.
    pub clip_denoised: bool,
}

impl Default for SampleGridConfig {
    fn default() -> Self {
        Self { every: 100, num: 16, steps: None, variance: VarianceType::default(), clip_denoised: true }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            data: None,
            size: None,
            seed: 0,
            steps: None,
            epochs: None,
            max_minutes: None,
            batch_size: 64,
            accumulate: 1,
            prediction_type: PredictionType::default(),
            clip_grad_norm: None,
            network: NetworkConfig::SimpleUnet(SimpleUNetConfig {
                in_channels: 1,
                base_channels: 32,
                time_dim: 128,
            }),
            schedule: ScheduleConfig::linear_scaled_to(200),
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
        // The debug form names every field and writes floats so that they read back the same.
        let digest = Sha256::digest(format!("{numbers:?}"));
        digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    /// Checks the ranges of all fields but the network's, which are checked where it is built.
    ///
    /// # Errors
    /// The first field that is outside it, with what would be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let field = |field, value: String, expected: &str, ok: bool| {
            if ok { Ok(()) } else { Err(ConfigError::Field { field, value, expected: expected.to_owned() }) }
        };
        let whole = |name, value: u64| field(name, value.to_string(), "it must be at least 1", value >= 1);
        let positive = |name, value: f64| {
            field(name, value.to_string(), "it must be a number above 0", value > 0.0 && value.is_finite())
        };
        let share = |name, value: f64| {
            field(name, value.to_string(), "it must lie in [0, 1)", (0.0..1.0).contains(&value))
        };
        whole("size", self.size.unwrap_or(1) as u64)?;
        whole("steps", self.steps.unwrap_or(1))?;
        whole("epochs", self.epochs.unwrap_or(1))?;
        positive("max_minutes", self.max_minutes.unwrap_or(1.0))?;
        field(
            "steps, epochs and max_minutes",
            "not given".to_owned(),
            "one of them must say when to stop",
            self.steps.is_some() || self.epochs.is_some() || self.max_minutes.is_some(),
        )?;
        field(
            "seed",
            self.seed.to_string(),
            "it must be below 2^63, the largest whole number of a TOML file",
            i64::try_from(self.seed).is_ok(),
        )?;
        whole("batch_size", self.batch_size as u64)?;
        whole("accumulate", self.accumulate as u64)?;
        field(
            "accumulate",
            self.accumulate.to_string(),
            &format!("it must divide batch_size, which is {}", self.batch_size),
            self.batch_size.is_multiple_of(self.accumulate),
        )?;
        positive("clip_grad_norm", self.clip_grad_norm.unwrap_or(1.0))?;
        positive("optimizer.lr", self.optimizer.lr)?;
        share("optimizer.beta1", self.optimizer.beta1)?;
        share("optimizer.beta2", self.optimizer.beta2)?;
        positive("optimizer.eps", self.optimizer.eps)?;
        let decay = self.optimizer.weight_decay;
        field(
            "optimizer.weight_decay",
            decay.to_string(),
            "it must be a number of at least 0",
            decay >= 0.0 && decay.is_finite(),
        )?;
        share("ema.decay", self.ema.decay)?;
        share("ema.min_decay", self.ema.min_decay)?;
        positive("ema.inv_gamma", self.ema.inv_gamma)?;
        positive("ema.power", self.ema.power)?;
        whole("checkpoint.every", self.checkpoint.every)?;
        whole("checkpoint.keep", self.checkpoint.keep as u64)?;
        whole("sample_grid.steps", self.sample_grid.steps.unwrap_or(1) as u64)?;
        field(
            "sample_grid.num",
            self.sample_grid.num.to_string(),
            "it must be at most 4096",
            self.sample_grid.num <= 4096,
        )?;
        field(
            "ema.min_decay",
            self.ema.min_decay.to_string(),
            &format!("it must not exceed ema.decay, which is {}", self.ema.decay),
            self.ema.min_decay <= self.ema.decay,
        )?;
        match self.lr_schedule.decay {
            LrDecay::CosineWithRestarts { num_cycles } => {
                whole("lr_schedule.decay.num_cycles", num_cycles.into())?;
            }
            LrDecay::Polynomial { power, lr_end } => {
                positive("lr_schedule.decay.power", power)?;
                let ok = (0.0..=self.optimizer.lr).contains(&lr_end);
                let expected = "it must lie between 0 and optimizer.lr";
                field("lr_schedule.decay.lr_end", lr_end.to_string(), expected, ok)?;
            }
            LrDecay::Constant | LrDecay::Linear | LrDecay::Cosine => {}
        }
        self.schedule.build()?;
        Ok(())
    }
}

fn parse(source: &ConfigSource) -> Result<Table, ConfigError> {
    source.text.parse().map_err(|e: toml::de::Error| explain(&e, source))
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
