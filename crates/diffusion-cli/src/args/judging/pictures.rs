//! Real pictures: reference images and training pictures.

use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_data::{DataError, ImageDataset, PictureConfig};
use diffusion_eval::{EvalError, ImageSet, ReferenceSet, TrainingSet};

use super::MNIST;
use crate::args::data::{self, CacheArgs, Flag, TrainingSource};
use crate::session::usage::bail_usage;

/// Prepared pictures as an image set of `diffusion-eval`.
#[derive(Clone)]
pub(crate) struct Pictures(pub(crate) ImageDataset);

impl ImageSet for Pictures {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn shape(&self) -> [usize; 3] {
        self.0.image_shape()
    }

    fn limited(&self, most: usize) -> Result<Self, EvalError> {
        Ok(Self(self.0.limited(most.min(self.0.len())).map_err(error)?))
    }

    fn images(&self, positions: Range<usize>, device: &Device) -> Result<Tensor, EvalError> {
        self.0.images(&positions.collect::<Vec<_>>(), device).map_err(error)
    }
}

fn error(error: DataError) -> EvalError {
    EvalError::Images(Box::new(error))
}

/// The reference images at `path`, the value of --against, for images of `shape` by a model that
/// was trained on `training`, prepared with the settings of that training.
pub(super) fn references(
    path: &Path,
    shape: [usize; 3],
    training: Option<&TrainingSet<Pictures>>,
    settings: &PictureConfig,
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<ReferenceSet<Pictures>> {
    let path = data::resolve_for(Flag::Against, path)?;
    let prepared = resized(Flag::Against, Some(&path), shape, settings, cache, quiet)?;
    data::report_damaged(&prepared.report.damaged);
    match ReferenceSet::new(Pictures(prepared.dataset), &path, shape, training) {
        Err(error @ EvalError::ReferenceShape { .. }) => {
            bail_usage!("--against {}: {error}", path.display())
        }
        references => Ok(references?),
    }
}

/// The training pictures of the model in the folder `checkpoint`, if its run is known.
pub(super) fn of_run(
    checkpoint: &Path,
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<Option<TrainingSet<Pictures>>> {
    let source = TrainingSource::of(Some(checkpoint), "--training of `evaluate samples`")?;
    let Ok(TrainingSource { path, size, pictures }) = source else { return Ok(None) };
    let source = data::open(path.as_deref())?;
    let prepared = data::prepare_pictures(&source, size, &pictures, cache, quiet)?;
    let (images, held_out) = data::select(prepared.dataset, &pictures)?;
    let (images, held_out) = (Pictures(images), held_out.map(Pictures));
    Ok(Some(TrainingSet { images, held_out, path, mirrored: pictures.flip }))
}

/// The pictures at `path`, the value of --training, resized to `shape`; `mnist` means the digits
/// that come with the program.
pub(crate) fn training_pictures(
    path: &Path,
    shape: [usize; 3],
    settings: &PictureConfig,
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<TrainingSet<Pictures>> {
    let path =
        (path.as_os_str() != MNIST).then(|| data::resolve_for(Flag::Training, path)).transpose()?;
    let prepared = resized(Flag::Training, path.as_deref(), shape, settings, cache, quiet)?;
    let images = Pictures(prepared.dataset);
    if images.shape() != shape {
        bail_usage!(
            "--training: the pictures have shape {:?}, the images {shape:?} (channels, height, \
             width)",
            images.shape()
        );
    }
    Ok(TrainingSet { images, held_out: None, path, mirrored: false })
}

/// All pictures at `path`, or the digits that come with the program, resized to the height of
/// `shape`, with the channels, fit and background of `settings`.
fn resized(
    flag: Flag,
    path: Option<&Path>,
    shape: [usize; 3],
    settings: &PictureConfig,
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<diffusion_data::PreparedDataset> {
    let source = data::open_for(flag, path)?;
    let settings = settings.appearance().with_channels_of(shape);
    data::prepare_pictures(&source, Some(shape[1]), &settings, cache, quiet)
}
