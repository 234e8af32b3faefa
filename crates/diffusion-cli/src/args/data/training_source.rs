//! The training pictures of a run.

use std::path::{Path, PathBuf};

use diffusion_data::PictureConfig;
use diffusion_model::ModelState;
use diffusion_train::Checkpoint;

use super::hub_reference;
use crate::args::runs;
use crate::session::usage::bail_usage;

/// The source of a model's training pictures, and how they were prepared and split.
#[derive(Default)]
pub(crate) struct TrainingSource {
    /// `None` for the digits that come with the program.
    pub(crate) path: Option<PathBuf>,
    pub(crate) size: Option<usize>,
    pub(crate) pictures: PictureConfig,
}

impl TrainingSource {
    /// The training pictures according to the run of `checkpoint`, or the reason why they are
    /// unknown. Without a checkpoint: those of the model that comes with the program.
    ///
    /// # Errors
    /// If the pictures no longer exist; the error suggests `flag`. If the files of the checkpoint
    /// or the run cannot be read.
    pub(crate) fn of(
        checkpoint: Option<&Path>,
        flag: &str,
    ) -> anyhow::Result<Result<Self, &'static str>> {
        let Some(checkpoint) = checkpoint else { return Ok(Ok(Self::default())) };
        if checkpoint.is_file() {
            return Ok(Err("the training pictures of a model in one file are unknown"));
        }
        if Checkpoint::read_state(checkpoint)?.is_adopted() {
            return Ok(Err("the training pictures of an imported model are unknown"));
        }
        let Some(run) = runs::run_of(checkpoint) else {
            return Ok(Err(
                "the checkpoint is not in the folder of a run, so its training pictures are unknown",
            ));
        };
        let config = run.read_config()?;
        if let Some(path) = &config.data
            && hub_reference(path).is_none()
            && !path.exists()
        {
            bail_usage!(
                "{}: the training pictures of the run no longer exist; name others with {flag}",
                path.display()
            );
        }
        let size = config.size.or(trained_side(checkpoint)?);
        Ok(Ok(Self { path: config.data, size, pictures: config.pictures }))
    }
}

/// The side in pixels of the square images of the model in the folder `checkpoint`. Pictures of a
/// run without a configured size are prepared with it, so that pictures added later cannot change
/// the size.
pub(crate) fn trained_side(checkpoint: &Path) -> anyhow::Result<Option<usize>> {
    let [_, height, width] = ModelState::read(checkpoint)?.model.image_shape;
    Ok((height == width).then_some(height))
}
