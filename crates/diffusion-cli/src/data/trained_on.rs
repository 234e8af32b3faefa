//! The pictures that a run was trained on.

use std::fmt;
use std::path::{Path, PathBuf};

use diffusion_data::PictureConfig;
use diffusion_train::Checkpoint;

use super::hub_reference;
use crate::args::runs;
use crate::session::usage::bail_usage;

/// Where the pictures are that a model was trained on, and how they were prepared and divided.
#[derive(Default)]
pub(crate) struct TrainedOn {
    /// None: they are the digits that come with the program.
    pub(crate) path: Option<PathBuf>,
    pub(crate) size: Option<usize>,
    pub(crate) pictures: PictureConfig,
}

/// Why the pictures that a model was trained on are not known.
pub(crate) enum NotKnown {
    /// The model was imported.
    Imported,
    /// The checkpoint lies in no run.
    NoRun,
}

impl fmt::Display for NotKnown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Imported => "the model was trained elsewhere, nobody here knows on which pictures",
            Self::NoRun => "the checkpoint lies in no run that would say what it was trained on",
        })
    }
}

impl TrainedOn {
    /// What the run says in which `checkpoint` lies; the default without one, for the model that comes with
    /// the program. Pictures that are not there any more are an error, which names `flag` for others.
    pub(crate) fn of(checkpoint: Option<&Path>, flag: &str) -> anyhow::Result<Result<Self, NotKnown>> {
        let Some(checkpoint) = checkpoint else { return Ok(Ok(Self::default())) };
        if Checkpoint::read_state(checkpoint)?.is_adopted() {
            return Ok(Err(NotKnown::Imported));
        }
        let Some(run) = runs::run_of(checkpoint) else { return Ok(Err(NotKnown::NoRun)) };
        let config = run.read_config()?;
        if let Some(path) = &config.data
            && hub_reference(path).is_none()
            && !path.exists()
        {
            bail_usage!(
                "{}: the pictures that the run was trained on are not there any more; {flag} names others",
                path.display()
            );
        }
        Ok(Ok(Self { path: config.data, size: config.size, pictures: config.pictures }))
    }
}
