//! The loop that every sampler shares.

use std::ops::{ControlFlow, Range};

use candle_core::{DType, Device, Tensor};
use diffusion_process::{Denoiser, Domain, NoiseLevel, NoiseSource};
use diffusion_schedule::NoiseSchedule;
use thiserror::Error;

/// Which images to make.
#[derive(Clone, Debug)]
pub struct SampleRequest<'a> {
    /// The seed of every random number.
    pub seed: u64,
    /// The images' indices; image i is the same in whatever range it is asked for.
    pub indices: Range<u64>,
    /// [C, H, W].
    pub image_shape: [usize; 3],
    /// Where to compute.
    pub device: &'a Device,
}

/// The fresh noise of the step at an index of the schedule, of the images' shape.
pub type StepNoise<'a> = &'a dyn Fn(usize) -> candle_core::Result<Tensor>;

/// One step of the reverse process, as a sampler sees it.
pub struct Step<'a> {
    /// The schedule, respaced or not.
    pub schedule: &'a NoiseSchedule,
    /// The index of x_t in it; the step leads to index − 1, or to the image itself from 0.
    pub index: usize,
    noise: StepNoise<'a>,
}

impl Step<'_> {
    /// The noise level of x_t, as a denoiser wants to hear it.
    pub fn level(&self) -> NoiseLevel {
        NoiseLevel {
            timestep: self.schedule.timestep(self.index) as f64,
            alpha_cumprod: self.schedule.alphas_cumprod()[self.index],
        }
    }

    /// Standard normal noise of the images' shape, the same at every call within a step.
    ///
    /// # Errors
    /// Those of the device.
    pub fn noise(&self) -> candle_core::Result<Tensor> {
        (self.noise)(self.index)
    }
}

/// What differs between samplers: one step.
pub trait Sampler {
    /// x_{t−1} from `x_t` (N, C, H, W).
    ///
    /// # Errors
    /// Those of the denoiser and the device.
    fn step(&self, step: &Step<'_>, x_t: &Tensor, denoiser: &dyn Denoiser) -> candle_core::Result<Tensor>;
}

/// How far sampling is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps that are done, 1 to `steps`.
    pub done: usize,
    /// Steps in all.
    pub steps: usize,
}

/// Why there are no images.
#[derive(Debug, Error)]
pub enum SampleError {
    /// The progress callback asked to stop.
    #[error("sampling was cancelled after {done} of {steps} steps")]
    Cancelled {
        /// Steps that were done.
        done: usize,
        /// Steps in all.
        steps: usize,
    },
    /// A step gave a number that is none.
    #[error("the model's output is not finite at step {done} of {steps} (timestep {timestep})")]
    NotFinite {
        /// Steps that were done.
        done: usize,
        /// Steps in all.
        steps: usize,
        /// What the network was told.
        timestep: usize,
    },
    /// The denoiser's or the device's own error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Makes the images of `request`: runs `sampler` over the whole of `schedule`, from pure noise to images (N, C, H, W).
/// `progress` is called after each step and may break off.
///
/// # Errors
/// Cancelling; a result that is not finite; those of the denoiser and the device.
pub fn sample(
    denoiser: &dyn Denoiser,
    sampler: &dyn Sampler,
    schedule: &NoiseSchedule,
    request: &SampleRequest<'_>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Tensor, SampleError> {
    let SampleRequest { seed, indices, image_shape, device } = request;
    let normal =
        |domain, draw| NoiseSource::new(*seed).normal(domain, draw, indices.clone(), image_shape, device);
    let x_t = normal(Domain::Initial, 0)?;
    sample_from(x_t, denoiser, sampler, schedule, &|index| normal(Domain::Sampler, index as u64), progress)
}

/// As [`sample`], from a given `x_t` (N, C, H, W) at the end of the schedule, with given noise for each step.
///
/// # Errors
/// As [`sample`].
pub fn sample_from(
    x_t: Tensor,
    denoiser: &dyn Denoiser,
    sampler: &dyn Sampler,
    schedule: &NoiseSchedule,
    noise: StepNoise<'_>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Tensor, SampleError> {
    let steps = schedule.len();
    let mut x = x_t;
    for index in (0..steps).rev() {
        x = sampler.step(&Step { schedule, index, noise }, &x, denoiser)?;
        let done = steps - index;
        if !x.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?.is_finite() {
            return Err(SampleError::NotFinite { done, steps, timestep: schedule.timestep(index) });
        }
        if progress(Progress { done, steps }).is_break() && done < steps {
            return Err(SampleError::Cancelled { done, steps });
        }
    }
    Ok(x)
}
