//! Changing pictures by a model that was trained for nothing but to make some.
//!
//! - [`vary`]: noise on a picture, and from there another way back (SDEdit).
//! - [`inpaint`]: a part of a picture made anew, to fit the rest (RePaint).
//! - [`to_noise`] and [`from_noise`]: the noise that a picture comes from, and back; [`interpolate`] goes from one such noise to another,
//!   [`reclass`] comes back as another class, which [`with_grain`] makes easier.
//!
//! All of them take any [`Denoiser`](diffusion_process::Denoiser), guided or not, and plans of any path; the first two take any
//! [`Sampler`](crate::Sampler).

mod inpaint;
mod inverse;
mod vary;

use candle_core::Tensor;
use diffusion_process::NoiseLevel;
use thiserror::Error;

pub use inpaint::{Inpainting, inpaint};
pub use inverse::{from_noise, interpolate, reclass, slerp, to_noise, with_grain};
pub use vary::{steps_at, vary};

use crate::arithmetic::combination;
use crate::{SampleError, SampleRequest};

/// Why a picture was not changed.
#[derive(Debug, Error)]
pub enum EditError {
    /// A strength outside (0, 1].
    #[error("the strength is {0}; it must be above 0 and at most 1")]
    Strength(f64),
    /// A tensor that does not fit what is asked for.
    #[error("{what}: the shape is {found:?}; {wanted} is wanted")]
    Shape {
        /// Whose shape.
        what: &'static str,
        /// What it was.
        found: Vec<usize>,
        /// What would be right.
        wanted: String,
    },
    /// A mask that says neither yes nor no.
    #[error("the mask holds {0}; 1 is to be made, 0 is known, and there is nothing between")]
    Mask(f32),
    /// Steps that are never taken.
    #[error("resamples is 0; each step is taken once at least")]
    Resamples,
    /// What sampling itself met with.
    #[error(transparent)]
    Sample(#[from] SampleError),
}

impl From<candle_core::Error> for EditError {
    fn from(error: candle_core::Error) -> Self {
        Self::Sample(error.into())
    }
}

/// `pictures` with `noise` on them, at `level`.
fn noised(pictures: &Tensor, noise: &Tensor, level: &NoiseLevel) -> candle_core::Result<Tensor> {
    combination(&[(level.signal, pictures), (level.noise, noise)])
}

/// `pictures` (N, C, H, W) for the N images of `request`, or one (1, C, H, W) for all of them.
fn for_each_image(pictures: &Tensor, request: &SampleRequest<'_>) -> Result<Tensor, EditError> {
    let ([channels, height, width], n) = (request.image_shape, request.indices.len());
    let wanted = [n, channels, height, width];
    if pictures.dims() == wanted {
        return Ok(pictures.clone());
    }
    if pictures.dims() == [1, channels, height, width] {
        return Ok(pictures.broadcast_as(&wanted)?.contiguous()?);
    }
    let wanted = format!("{wanted:?}, or one picture for all");
    Err(EditError::Shape { what: "the pictures", found: pictures.dims().to_vec(), wanted })
}
