use thiserror::Error;

/// Why a configuration cannot be trained.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// No preset of that name.
    #[error("there is no preset `{name}`; there are {}", super::layers::PRESET_NAMES.join(", "))]
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
