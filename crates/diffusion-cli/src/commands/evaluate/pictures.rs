//! Which pictures a model is looked at with.

use std::path::{Path, PathBuf};

use diffusion_data::{ImageDataset, PictureConfig};
use diffusion_model::LoadedModel;
use diffusion_train::Checkpoint;

use crate::data::{self, CacheArgs, PictureArgs};
use crate::runs;
use crate::session::usage::bail_usage;

/// What the command line says of the pictures.
pub(super) struct Asked<'a> {
    pub(super) data: Option<&'a PathBuf>,
    pub(super) flags: &'a PictureArgs,
    pub(super) cache: &'a CacheArgs,
    pub(super) quiet: bool,
}

impl Asked<'_> {
    /// --data, or what the model in `checkpoint`, or the one that comes with the program, was trained on, as that training chose and divided it: the pictures it was
    /// trained on and those kept out of training. They have the model's shape. `adapt` changes what is chosen, before the flags do.
    pub(super) fn of_model(
        &self,
        checkpoint: Option<&Path>,
        model: &LoadedModel,
        adapt: impl FnOnce(&mut PictureConfig),
    ) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
        let (data, mut size, mut config) = match self.data {
            Some(path) => (Some(path.clone()), None, PictureConfig::default()),
            None => checkpoint.map_or_else(|| Ok((None, None, PictureConfig::default())), of_training)?,
        };
        // Whatever the pictures are, the model takes its own size.
        let [_, height, width] = model.description.image_shape;
        if height == width {
            size = size.or(Some(height));
        }
        adapt(&mut config);
        let chosen = data::chosen(data.as_deref(), self.flags, (size, config), self.cache, self.quiet)?;
        if chosen.0.image_shape() != model.description.image_shape {
            bail_usage!(
                "the pictures are {:?}, the model's {:?} (channels, height, width); choose --channels and --size, or other --data",
                chosen.0.image_shape(),
                model.description.image_shape
            );
        }
        Ok(chosen)
    }
}

/// The path, size and choice of the pictures that the model in `checkpoint` was trained on.
fn of_training(checkpoint: &Path) -> anyhow::Result<(Option<PathBuf>, Option<usize>, PictureConfig)> {
    if Checkpoint::read_state(checkpoint)?.is_adopted() {
        bail_usage!("the model was trained elsewhere, nobody here knows on which pictures; say --data");
    }
    let Some(run) = runs::run_of(checkpoint) else {
        bail_usage!("the checkpoint lies in no run that would say what it was trained on; say --data");
    };
    let config = run.read_config()?;
    data::check_there(config.data.as_deref(), "--data")?;
    Ok((config.data, config.size, config.pictures))
}
