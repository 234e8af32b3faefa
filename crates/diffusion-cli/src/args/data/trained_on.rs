//! The pictures that a run was trained on.

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

impl TrainedOn {
    /// What the run says in which `checkpoint` lies, or why nothing is known; the default without a checkpoint,
    /// for the model that comes with the program. Pictures that are gone are an error, which names `flag` for
    /// others.
    pub(crate) fn of(
        checkpoint: Option<&Path>,
        flag: &str,
    ) -> anyhow::Result<Result<Self, &'static str>> {
        let Some(checkpoint) = checkpoint else { return Ok(Ok(Self::default())) };
        if Checkpoint::read_state(checkpoint)?.is_adopted() {
            return Ok(Err("the model was trained elsewhere, nobody here knows on which pictures"));
        }
        let Some(run) = runs::run_of(checkpoint) else {
            return Ok(Err("the checkpoint lies in no run that would say what it was trained on"));
        };
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
