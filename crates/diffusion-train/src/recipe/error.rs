use thiserror::Error;

/// Why a configuration is invalid.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// There is no preset of this name.
    #[error("there is no preset `{name}`; the presets are {}", super::layers::PRESET_NAMES.join(", "))]
    UnknownPreset {
        /// The unknown name.
        name: String,
    },
    /// The text is not TOML or not a configuration.
    #[error("{place}: {problem}")]
    Text {
        /// The file, with the line if it is known.
        place: String,
        /// One sentence.
        problem: String,
    },
    /// A field is outside its range.
    #[error("{field} is {value}; {expected}")]
    Field {
        /// The field as a dotted path.
        field: &'static str,
        /// Its value.
        value: String,
        /// The valid values.
        expected: String,
    },
    /// The noise schedule is invalid.
    #[error("schedule: {0}")]
    Schedule(#[from] diffusion_schedule::ScheduleError),
}
