//! Editing pictures with a model that was trained to generate some.
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

/// Steps from a picture to its noise and back. Default of [`to_noise`] and [`from_noise`] on the command line.
pub const INVERSION_STEPS: usize = 50;

/// Fixed-point iterations of each step of [`to_noise`]. Default of the command line.
pub const INVERSION_ITERATIONS: usize = 4;

/// How often [`inpaint`] takes each step. Default of the command line.
pub const RESAMPLES: usize = 5;

/// The share of the inversion's steps that [`with_grain`] replaces by noise. Default of the command line.
pub const GRAIN: f64 = 0.04;

/// Why a picture could not be edited.
#[derive(Debug, Error)]
pub enum EditError {
    /// A strength outside (0, 1].
    #[error("strength must be above 0 and at most 1, got {0}")]
    Strength(f64),
    /// A tensor of the wrong shape.
    #[error("{what}: expected the shape {expected}, got {found:?}")]
    Shape {
        /// Whose shape.
        what: &'static str,
        /// The shape it had.
        found: Vec<usize>,
        /// What would be right.
        expected: String,
    },
    /// A mask value other than 0 and 1.
    #[error("mask values must be 0 (known) or 1 (to be filled in), got {0}")]
    Mask(f32),
    /// A number of resamples below 1.
    #[error("resamples must be at least 1, got 0")]
    Resamples,
    /// An error of sampling.
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
    let expected = format!("{wanted:?}, or one picture for all");
    Err(EditError::Shape { what: "the pictures", found: pictures.dims().to_vec(), expected })
}
