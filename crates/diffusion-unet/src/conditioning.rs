//! The conditioning of the residual blocks: a vector for the timestep and the class of each image.

use candle_core::{Error, Result, Tensor};
use candle_nn::Module;
use diffusion_nn::{ClassEmbedding, TimeEmbedding};
use diffusion_process::reject_classes;

/// The embedding of the timestep plus that of the class, if the network has classes.
#[derive(Clone, Debug)]
pub(crate) struct Conditioning {
    pub(crate) time: TimeEmbedding,
    pub(crate) classes: Option<ClassEmbedding>,
}

impl Conditioning {
    /// The vectors (N, width) of `timesteps` (N) and `classes` (N).
    ///
    /// # Errors
    /// - If a class is unknown, or missing although the network needs one.
    /// - If a class is given to a network without classes.
    pub(crate) fn forward(&self, timesteps: &Tensor, classes: &[Option<u32>]) -> Result<Tensor> {
        let time = self.time.forward(timesteps)?;
        match &self.classes {
            Some(embedding) => time + embedding.forward(classes)?,
            None => reject_classes(classes).map(|()| time),
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
