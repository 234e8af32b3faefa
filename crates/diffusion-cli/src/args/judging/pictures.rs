//! Real pictures: those that images are compared with, and those that a model was trained on.

use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_data::{DataError, ImageDataset, PictureConfig};
use diffusion_eval::{EvalError, ImageSet, ReferenceSet, TrainingSet};

use super::MNIST;
use crate::args::data::{self, CacheArgs, Flag, TrainedOn};
use crate::session::usage::bail_usage;

/// Prepared pictures, as evaluation reads them.
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

/// The pictures of --against `path`, for images of `shape` by a model that was trained on `training`.
pub(super) fn references(
    path: &Path,
    shape: [usize; 3],
    training: Option<&TrainingSet<Pictures>>,
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<ReferenceSet<Pictures>> {
    let path = data::resolve_for(Flag::Against, path)?;
    let prepared = brought_to(Flag::Against, Some(&path), shape, cache, quiet)?;
    data::report_damaged(&prepared.report.damaged);
    match ReferenceSet::new(Pictures(prepared.dataset), &path, shape, training) {
        Err(error @ EvalError::ReferenceShape { .. }) => {
            bail_usage!("--against {}: {error}", path.display())
        }
        references => Ok(references?),
    }
}

/// What the model in the folder `checkpoint`, or the one that comes with the program, was trained on, if its
/// run says so.
pub(super) fn of_run(
    checkpoint: &Path,
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<Option<TrainingSet<Pictures>>> {
    let trained_on = TrainedOn::of(Some(checkpoint), "--training of `evaluate samples`")?;
    let Ok(TrainedOn { path, size, pictures }) = trained_on else { return Ok(None) };
    let source = data::open(path.as_deref())?;
    let prepared = data::prepared(&source, size, &pictures, cache, quiet)?;
    let (images, held_out) = data::select(prepared.dataset, &pictures)?;
    let (images, held_out) = (Pictures(images), held_out.map(Pictures));
    Ok(Some(TrainingSet { images, held_out, path, mirrored: pictures.flip }))
}

/// The pictures of --training `path`, brought to `shape`; `mnist` stands for the digits that come with the
/// program.
pub(crate) fn training_pictures(
    path: &Path,
    shape: [usize; 3],
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<TrainingSet<Pictures>> {
    let path =
        (path.as_os_str() != MNIST).then(|| data::resolve_for(Flag::Training, path)).transpose()?;
    let images =
        Pictures(brought_to(Flag::Training, path.as_deref(), shape, cache, quiet)?.dataset);
    if images.shape() != shape {
        bail_usage!(
            "--training: its pictures are {:?}, the images {shape:?} (channels, height, width)",
            images.shape()
        );
    }
    Ok(TrainingSet { images, held_out: None, path, mirrored: false })
}

/// All pictures of `path`, or of the digits that come with the program, at the height of `shape`.
fn brought_to(
    flag: Flag,
    path: Option<&Path>,
    shape: [usize; 3],
    cache: &CacheArgs,
    quiet: bool,
) -> anyhow::Result<diffusion_data::Prepared> {
    data::prepared(
        &data::open_for(flag, path)?,
        Some(shape[1]),
        &PictureConfig::default(),
        cache,
        quiet,
    )
}
