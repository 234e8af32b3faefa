//! The conditioning of the residual blocks: a vector for the timestep, the class and the
//! augmentation of each image.

use candle_core::{Error, Result, Tensor};
use candle_nn::{Module, VarBuilder};
use diffusion_nn::{ClassEmbedding, Linear, TimeEmbedding, linear_no_bias};
use diffusion_process::reject_classes;

/// The number of labels that say how a training picture was transformed (Karras et al. 2022,
/// appendix F.2).
pub const AUGMENTATION_LABELS: usize = 9;

/// The name of the layer of the augmentation. Its output is zero in sampling.
pub(crate) const AUGMENTATION: &str = "augment_embedding";

/// The layer that embeds the labels of the augmentation, if the network has it.
///
/// # Errors
/// If `vb` does not have the parameter, or has it in another shape.
pub(crate) fn augmentation(
    is_present: bool,
    width: usize,
    vb: &VarBuilder<'_>,
) -> Result<Option<Linear>> {
    is_present.then(|| linear_no_bias(AUGMENTATION_LABELS, width, vb.pp(AUGMENTATION))).transpose()
}

/// The embedding of the timestep, plus those of the class and of the augmentation if the network
/// has them.
#[derive(Clone, Debug)]
pub(crate) struct Conditioning {
    pub(crate) time: TimeEmbedding,
    pub(crate) classes: Option<ClassEmbedding>,
    pub(crate) augmentation: Option<Linear>,
}

impl Conditioning {
    /// The vectors (N, width) of `timesteps` (N), `classes` (N) and `labels` (N, 9) of the
    /// augmentation. Without `labels` no picture is transformed.
    ///
    /// # Errors
    /// - If a class is unknown, or missing although the network needs one.
    /// - If a class is given to a network without classes, or labels to one without augmentation.
    pub(crate) fn forward(
        &self,
        timesteps: &Tensor,
        classes: &[Option<u32>],
        labels: Option<&Tensor>,
    ) -> Result<Tensor> {
        let time = self.time.forward(timesteps)?;
        let vectors = match &self.classes {
            Some(embedding) => (time + embedding.forward(classes)?)?,
            None => reject_classes(classes).map(|()| time)?,
        };
        match (&self.augmentation, labels) {
            (Some(layer), Some(labels)) => vectors + layer.forward(labels)?,
            (None, Some(_)) => {
                Err(Error::Msg("the network has no layer for labels of augmentation".to_owned()))
            }
            (_, None) => Ok(vectors),
        }
    }
}

/// Checks that there is one timestep and one class per image.
pub(crate) fn check_counts(
    images: usize,
    timesteps: &Tensor,
    classes: &[Option<u32>],
) -> Result<()> {
    if timesteps.dims() != [images] {
        return Err(Error::Msg(format!(
            "expected {images} timesteps (one per image), got a tensor of shape {:?}",
            timesteps.dims()
        )));
    }
    if classes.len() != images {
        return Err(Error::Msg(format!(
            "expected {images} classes (one per image), got {}",
            classes.len()
        )));
    }
    Ok(())
}
