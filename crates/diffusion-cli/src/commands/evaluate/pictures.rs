//! Which pictures a model is looked at with.

use std::path::Path;

use diffusion_data::{ImageDataset, PictureConfig};
use diffusion_model::LoadedModel;

use crate::args::data::{DataArgs, TrainedOn};
use crate::session::usage::bail_usage;

/// --data, or what the model in `checkpoint`, or the one that comes with the program, was trained on, as that
/// training chose and divided it: the pictures it was trained on and those kept out of training. They have
/// the model's shape. `adapt` changes what is chosen, before the flags do.
pub(super) fn of_model(
    args: &DataArgs,
    checkpoint: Option<&Path>,
    model: &LoadedModel,
    adapt: impl FnOnce(&mut PictureConfig),
    quiet: bool,
) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
    let mut usual = match &args.path {
        Some(path) => TrainedOn { path: Some(path.clone()), ..TrainedOn::default() },
        None => match TrainedOn::of(checkpoint, "--data")? {
            Ok(trained_on) => trained_on,
            Err(unknown) => bail_usage!("{unknown}; say --data"),
        },
    };
    // Whatever the pictures are, the model takes its own size.
    let [_, height, width] = model.description.image_shape;
    if height == width {
        usual.size = usual.size.or(Some(height));
    }
    adapt(&mut usual.pictures);
    let chosen = args.chosen_from(usual.path.as_deref(), (usual.size, usual.pictures), quiet)?;
    if chosen.0.image_shape() != model.description.image_shape {
        bail_usage!(
            "the pictures are {:?}, the model's {:?} (channels, height, width); choose --channels and --size, or other --data",
            chosen.0.image_shape(),
            model.description.image_shape
        );
    }
    Ok(chosen)
}
