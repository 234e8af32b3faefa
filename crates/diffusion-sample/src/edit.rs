//! Editing existing pictures with a trained diffusion model.
//!
//! - [`vary`]: adds noise to a picture and samples from there (SDEdit).
//! - [`inpaint`]: repaints the masked part of a picture so that it fits the rest (RePaint).
//! - [`to_noise`] and [`from_noise`]: invert a picture to its noise, and sample from that noise.
//! - [`interpolate`]: images between two noises.
//! - [`reclass`]: inverts a picture under one class and samples under another. [`with_grain`] helps
//!   with pictures that inversion hardly changes.
//!
//! All functions take any [`Denoiser`](diffusion_process::Denoiser), guided or not, and plans on
//! any path. [`vary`] and [`inpaint`] take any [`Sampler`](crate::Sampler).

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

/// The command line's default number of steps of [`to_noise`] and [`from_noise`].
pub const INVERSION_STEPS: usize = 50;

/// The command line's default number of fixed-point iterations per step of [`to_noise`].
pub const INVERSION_ITERATIONS: usize = 4;

/// The command line's default number of times that [`inpaint`] takes each step.
pub const RESAMPLES: usize = 5;

/// The command line's default share of the inversion steps that [`with_grain`] replaces by noise.
pub const GRAIN: f64 = 0.04;

/// Why a picture could not be edited.
#[derive(Debug, Error)]
pub enum EditError {
    /// The strength is outside (0, 1].
    #[error("strength must be above 0 and at most 1, got {0}")]
    Strength(f64),
    /// A tensor has the wrong shape.
    #[error("{what}: expected the shape {expected}, got {found:?}")]
    Shape {
        /// The tensor with the wrong shape.
        what: &'static str,
        /// The shape that it has.
        found: Vec<usize>,
        /// The shape that it should have.
        expected: String,
    },
    /// A mask value is neither 0 nor 1.
    #[error("mask values must be 0 (known) or 1 (to be filled in), got {0}")]
    Mask(f32),
    /// The number of resamples is 0.
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

/// `pictures` with `noise` added, at `level`.
fn noised(pictures: &Tensor, noise: &Tensor, level: &NoiseLevel) -> candle_core::Result<Tensor> {
    combination(&[(level.signal, pictures), (level.noise, noise)])
}

/// Returns `pictures` as (N, C, H, W) for the N images of `request`. A single picture (1, C, H, W)
/// is repeated.
fn for_each_image(pictures: &Tensor, request: &SampleRequest<'_>) -> Result<Tensor, EditError> {
    let ([channels, height, width], n) = (request.image_shape, request.indices.len());
    let shape = [n, channels, height, width];
    if pictures.dims() == shape {
        return Ok(pictures.clone());
    }
    if pictures.dims() == [1, channels, height, width] {
        return Ok(pictures.broadcast_as(&shape)?.contiguous()?);
    }
    let expected = format!("{shape:?}, or one picture for all");
    Err(EditError::Shape { what: "the pictures", found: pictures.dims().to_vec(), expected })
}
