//! Real pictures: those that images are compared with, and those that a model learnt from.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, PictureConfig, Prepared};
use diffusion_eval::Reference;
use diffusion_train::Checkpoint;

use super::{JudgeArgs, MNIST};
use crate::args::runs;
use crate::data;
use crate::data::Flag;
use crate::session::usage::bail_usage;

/// Pictures that a model learnt from, and others of their kind.
pub(crate) struct Learnt {
    pub(crate) training: ImageDataset,
    /// Those that the run kept out of training.
    pub(crate) held_out: Option<ImageDataset>,
    /// Where they come from; none: they are the digits that come with the program.
    pub(crate) path: Option<PathBuf>,
    /// Whether it learnt from their mirror images as well.
    pub(crate) mirrored: bool,
}

/// Real pictures that images are compared with.
pub(super) struct Real {
    pub(super) pictures: ImageDataset,
    pub(super) name: String,
    /// Whether those that the model learnt from are among them.
    pub(super) circular: bool,
}

impl Real {
    /// Those of --against, or those that the run kept out of training, or those that the model learnt from.
    pub(super) fn of(
        args: &JudgeArgs,
        shape: [usize; 3],
        learnt: Option<&Learnt>,
        cache: &data::CacheArgs,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        let Some(path) = &args.against else {
            let Some(Learnt { training, held_out, .. }) = learnt else {
                bail_usage!("--against: name the real pictures, or mnist");
            };
            let held_out = held_out.as_ref().filter(|pictures| pictures.len() >= Reference::SMALLEST);
            let (pictures, name) = match held_out {
                Some(held_out) => (held_out, "the pictures that the run kept out of training"),
                None => (training, "the pictures that the model was trained on"),
            };
            let circular = held_out.is_none();
            return Ok(Self { pictures: pictures.clone(), name: name.to_owned(), circular });
        };
        let path = data::resolve_for(Flag::Against, path)?;
        let prepared = brought_to(Flag::Against, Some(&path), shape, cache, quiet)?;
        data::report_damaged(&prepared.report.damaged);
        let pictures = prepared.dataset;
        if pictures.image_shape() != shape {
            bail_usage!(
                "--against {}: its pictures are {:?}, the images {shape:?} (channels, height, width)",
                path.display(),
                pictures.image_shape()
            );
        }
        // One folder may have several names.
        let place = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let own = learnt.and_then(|learnt| learnt.path.as_deref());
        let circular = own.is_some_and(|own| place(own) == place(&path));
        Ok(Self { pictures, name: format!("the pictures of {}", path.display()), circular })
    }
}

/// What the model in the folder `checkpoint` learnt from, if its run says so.
pub(super) fn learnt_in_run(
    checkpoint: &Path,
    cache: &data::CacheArgs,
    quiet: bool,
) -> anyhow::Result<Option<Learnt>> {
    let Some(run) = runs::run_of(checkpoint) else { return Ok(None) };
    if Checkpoint::read_state(checkpoint)?.is_adopted() {
        return Ok(None);
    }
    let config = run.read_config()?;
    data::check_there(config.data.as_deref(), "--training of `evaluate samples`")?;
    let source = data::open(config.data.as_deref())?;
    let prepared = data::prepared(&source, config.size, &config.pictures, cache, quiet)?;
    let (training, held_out) = data::select(prepared.dataset, &config.pictures)?;
    Ok(Some(Learnt { training, held_out, path: config.data, mirrored: config.pictures.flip }))
}

/// The pictures of `path`, brought to `shape`; `mnist` stands for the digits that come with the program.
pub(crate) fn training_pictures(
    path: &Path,
    shape: [usize; 3],
    cache: &data::CacheArgs,
    quiet: bool,
) -> anyhow::Result<Learnt> {
    let path = (path.as_os_str() != MNIST).then(|| data::resolve_for(Flag::Training, path)).transpose()?;
    let training = brought_to(Flag::Training, path.as_deref(), shape, cache, quiet)?.dataset;
    if training.image_shape() != shape {
        bail_usage!(
            "--training: its pictures are {:?}, the images {shape:?} (channels, height, width)",
            training.image_shape()
        );
    }
    Ok(Learnt { training, held_out: None, path, mirrored: false })
}

/// All pictures of `path`, or of the digits that come with the program, at the height of `shape`.
fn brought_to(
    flag: Flag,
    path: Option<&Path>,
    shape: [usize; 3],
    cache: &data::CacheArgs,
    quiet: bool,
) -> anyhow::Result<Prepared> {
    data::prepared(&data::open_for(flag, path)?, Some(shape[1]), &PictureConfig::default(), cache, quiet)
}

/// Up to `most` pictures, spread over all of them.
pub(super) fn first_images(dataset: &ImageDataset, most: usize, device: &Device) -> anyhow::Result<Tensor> {
    let chosen = dataset.limited(most.min(dataset.len()))?;
    let positions: Vec<usize> = (0..chosen.len()).collect();
    Ok(chosen.images(&positions, device)?)
}
