//! The pictures that a model is evaluated on.

use std::path::Path;

use diffusion_data::{ImageDataset, PictureConfig};
use diffusion_model::LoadedModel;

use crate::args::data::{DataArgs, TrainingSource};
use crate::args::runs;
use crate::session::usage::bail_usage;

/// The training and validation pictures: those of --data, otherwise those of the run of
/// `checkpoint`, or without one those of the model that comes with the program.
///
/// They are prepared and split as for that training, and have the model's shape. `adapt` changes
/// the configuration before the flags do.
pub(super) fn of_model(
    args: &DataArgs,
    checkpoint: Option<&Path>,
    model: &LoadedModel,
    adapt: impl FnOnce(&mut PictureConfig),
    quiet: bool,
) -> anyhow::Result<(ImageDataset, Option<ImageDataset>)> {
    let mut source = match &args.path {
        Some(path) => {
            let run = checkpoint.and_then(runs::run_of);
            let config = run.map(|run| run.read_config()).transpose()?.unwrap_or_default();
            let pictures = config.pictures.appearance();
            TrainingSource { path: Some(path.clone()), pictures, ..TrainingSource::default() }
        }
        None => match TrainingSource::of(checkpoint, "--data")? {
            Ok(training_source) => training_source,
            Err(reason) => bail_usage!("{reason}; give --data"),
        },
    };
    // The pictures are resized to the model's size.
    let [_, height, width] = model.description.image_shape;
    if height == width {
        source.size = source.size.or(Some(height));
    }
    source.pictures = source.pictures.with_channels_of(model.description.image_shape);
    adapt(&mut source.pictures);
    let sets = args.load_from(source.path.as_deref(), (source.size, source.pictures), quiet)?;
    if sets.0.image_shape() != model.description.image_shape {
        bail_usage!(
            "the pictures have shape {:?}, the model needs {:?} (channels, height, width); set \
             --channels and --size, or choose other --data",
            sets.0.image_shape(),
            model.description.image_shape
        );
    }
    Ok(sets)
}
