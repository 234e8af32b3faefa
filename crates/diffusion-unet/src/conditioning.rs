//! The vector that every residual block sees beside its images: of the timestep, and of the class if
//! there are classes.

use candle_core::{Error, Result, Tensor};
use candle_nn::Module;
use diffusion_nn::{ClassEmbedding, TimeEmbedding};
use diffusion_process::refuse_classes;

/// The embedding of the timestep, to which the class's own vector is added.
#[derive(Clone, Debug)]
pub(crate) struct Conditioning {
    pub(crate) time: TimeEmbedding,
    pub(crate) classes: Option<ClassEmbedding>,
}

impl Conditioning {
    /// `timesteps` (N) and `classes` (N) to (N, width).
    ///
    /// # Errors
    /// Classes that are missing or unknown, or that a network without classes gets.
    pub(crate) fn forward(&self, timesteps: &Tensor, classes: &[Option<u32>]) -> Result<Tensor> {
        let time = self.time.forward(timesteps)?;
        match &self.classes {
            Some(embedding) => time + embedding.forward(classes)?,
            None => refuse_classes(classes).map(|()| time),
        }
    }
}

/// Refuses a number of timesteps or classes other than the number of `images`.
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
