//! The sampling loop that all samplers share.
//!
//! ```text
//! x ← noise of variance 1, at the scale of the plan
//! for step in plan.steps():                 # from the noisiest to the cleanest
//!     x ← sampler.step(step, x, denoiser)   # from level step.from to level step.to
//!     stop with an error if x is not finite
//!     progress(step, x, x̂₀)                # may cancel
//! return x
//! ```

use std::cell::RefCell;
use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use diffusion_process::{Denoiser, Domain, NoiseLevel, NoiseSource, Prediction};
use diffusion_schedule::SamplingPlan;
use thiserror::Error;

/// The images to sample.
#[derive(Clone, Debug)]
pub struct SampleRequest<'a> {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The indices of the images. Image i has the same noise in every batch; an index may repeat.
    pub indices: Vec<u64>,
    /// The shape (C, H, W) of an image.
    pub image_shape: [usize; 3],
    /// The device to compute on.
    pub device: &'a Device,
}

impl SampleRequest<'_> {
    /// The initial noise (N, C, H, W) with variance 1.
    ///
    /// # Errors
    /// An error of the device.
    pub fn noise(&self) -> candle_core::Result<Tensor> {
        self.normal(Domain::Initial, 0)
    }

    pub(crate) fn normal(&self, domain: Domain, draw: u64) -> candle_core::Result<Tensor> {
        let Self { seed, indices, image_shape, device } = self;
        NoiseSource::new(*seed).normal(domain, draw, indices.iter().copied(), image_shape, device)
    }

    /// The initial noise (N, C, H, W) for `plan`: variance 1, rescaled to the scale of the plan. It
    /// matches the end of the forward process, at least nearly.
    ///
    /// # Errors
    /// An error of the device.
    pub fn initial(&self, plan: &SamplingPlan) -> candle_core::Result<Tensor> {
        self.noise()?.affine(1.0 / plan.start().to_variance_preserving(), 0.0)
    }

    /// The noise of each step. It is keyed by the number of steps that follow, so the last steps of
    /// all plans have the same noise, whatever their length.
    pub fn step_noise(&self, plan: &SamplingPlan) -> impl Fn(usize) -> candle_core::Result<Tensor> {
        let last = plan.steps().len() - 1;
        move |number| self.normal(Domain::Sampler, (last - number) as u64)
    }
}

/// Gives new noise (N, C, H, W) for the step with the given number.
pub type StepNoise<'a> = &'a dyn Fn(usize) -> candle_core::Result<Tensor>;

/// One step of the reverse process, as a sampler sees it.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// The whole plan.
    pub plan: &'a SamplingPlan,
    /// The number of the step, counted from 0 at the noisiest step.
    pub number: usize,
    /// The noise level of x before the step.
    pub from: NoiseLevel,
    /// The noise level of x after the step.
    pub to: NoiseLevel,
    /// Whether a stochastic sampler adds noise in this step.
    pub noisy: bool,
    noise: StepNoise<'a>,
}

impl Step<'_> {
    /// The number of steps in the plan.
    pub fn count(&self) -> usize {
        self.plan.steps().len()
    }

    /// The number of remaining steps, including this one.
    pub fn left(&self) -> usize {
        self.count() - self.number
    }

    /// The level halfway through the step: halfway in time if the plan defines it, otherwise
    /// halfway in ln σ.
    pub fn middle(&self) -> NoiseLevel {
        self.plan.steps()[self.number].middle.unwrap_or_else(|| {
            let sigma = (self.from.sigma() * self.to.sigma()).sqrt();
            let timestep = f64::midpoint(self.from.timestep, self.to.timestep);
            NoiseLevel::variance_preserving(timestep, 1.0 / (1.0 + sigma * sigma))
        })
    }

    /// Standard normal noise (N, C, H, W). All calls within a step return the same noise.
    ///
    /// # Errors
    /// An error of the device.
    pub fn noise(&self) -> candle_core::Result<Tensor> {
        (self.noise)(self.number)
    }
}

/// A sampling method: one step, and the state that it carries from step to step.
pub trait Sampler {
    /// Clears the state of an earlier run. Called before the first step.
    fn begin(&mut self) {}

    /// Takes `x` (N, C, H, W) from level `step.from` to level `step.to`.
    ///
    /// # Errors
    /// An error of the denoiser or the device.
    fn step(
        &mut self,
        step: &Step<'_>,
        x: &Tensor,
        denoiser: &dyn Denoiser,
    ) -> candle_core::Result<Tensor>;
}

/// The progress of a sampling run, reported after each step.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Completed steps, 1 to `steps`.
    pub done: usize,
    /// The total number of steps.
    pub steps: usize,
    /// The noise level after the step.
    pub level: NoiseLevel,
    /// The images after the step (N, C, H, W).
    pub x: &'a Tensor,
    /// The latest prediction x̂₀ of the clean images (N, C, H, W).
    pub x0: &'a Tensor,
}

/// Why sampling failed or stopped.
#[derive(Debug, Error)]
pub enum SampleError {
    /// The progress callback asked to stop.
    #[error("sampling was cancelled after {done} of {steps} steps")]
    Cancelled {
        /// Completed steps.
        done: usize,
        /// The total number of steps.
        steps: usize,
    },
    /// A step produced NaN or infinity.
    #[error("the model's output is not finite at step {done} of {steps} (timestep {timestep})")]
    NotFinite {
        /// Completed steps, including the failed one.
        done: usize,
        /// The total number of steps.
        steps: usize,
        /// The timestep that the network received.
        timestep: f64,
    },
    /// An error of the denoiser or the device.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Samples the images of `request`: runs `sampler` over all steps of `plan`, from pure noise to
/// images (N, C, H, W). `progress` is called after each step and may stop the run.
///
/// # Errors
/// If `progress` stops the run, or if a result is not finite. Also an error of the denoiser or the
/// device.
pub fn sample(
    denoiser: &dyn Denoiser,
    sampler: &mut dyn Sampler,
    plan: &SamplingPlan,
    request: &SampleRequest<'_>,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Tensor, SampleError> {
    let x = request.initial(plan)?;
    sample_from(x, denoiser, sampler, plan, &request.step_noise(plan), progress)
}

/// Like [`sample`], but starts from the given `x` (N, C, H, W) at the start of the plan, and takes
/// the noise of each step from `noise`.
///
/// # Errors
/// If `progress` stops the run, or if a result is not finite. Also an error of the denoiser or the
/// device.
pub fn sample_from(
    x: Tensor,
    denoiser: &dyn Denoiser,
    sampler: &mut dyn Sampler,
    plan: &SamplingPlan,
    noise: StepNoise<'_>,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Tensor, SampleError> {
    let (steps, mut x) = (plan.steps().len(), x);
    let recorder = RecordingDenoiser { denoiser, x0: RefCell::new(x.clone()) };
    sampler.begin();
    for (number, &step) in plan.steps().iter().enumerate() {
        let step = Step { plan, number, from: step.from, to: step.to, noisy: step.noisy, noise };
        x = sampler.step(&step, &x, &recorder)?;
        let done = number + 1;
        if !is_finite(&x)? {
            return Err(SampleError::NotFinite { done, steps, timestep: step.from.timestep });
        }
        let state = Progress { done, steps, level: step.to, x: &x, x0: &recorder.x0.borrow() };
        if progress(state).is_break() && done < steps {
            return Err(SampleError::Cancelled { done, steps });
        }
    }
    Ok(x)
}

/// Takes only the step `number` of `plan`, with a cleared sampler. Returns x (N, C, H, W) after the
/// step, and the latest prediction x̂₀ of the clean images.
pub(crate) fn single_step(
    number: usize,
    x: &Tensor,
    denoiser: &dyn Denoiser,
    sampler: &mut dyn Sampler,
    plan: &SamplingPlan,
    noise: StepNoise<'_>,
) -> candle_core::Result<(Tensor, Tensor)> {
    let recorder = RecordingDenoiser { denoiser, x0: RefCell::new(x.clone()) };
    let step = plan.steps()[number];
    sampler.begin();
    let step = Step { plan, number, from: step.from, to: step.to, noisy: step.noisy, noise };
    let x = sampler.step(&step, x, &recorder)?;
    Ok((x, recorder.x0.into_inner()))
}

/// Whether no element is NaN or infinite.
pub(crate) fn is_finite(x: &Tensor) -> candle_core::Result<bool> {
    Ok(x.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?.is_finite())
}

/// A denoiser that records its latest x̂₀.
struct RecordingDenoiser<'a> {
    denoiser: &'a dyn Denoiser,
    x0: RefCell<Tensor>,
}

impl Denoiser for RecordingDenoiser<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> candle_core::Result<Prediction> {
        let prediction = self.denoiser.denoise(x_t, level)?;
        *self.x0.borrow_mut() = prediction.x0.clone();
        Ok(prediction)
    }
}
