//! The loop that every sampler shares.

use std::cell::RefCell;
use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use diffusion_process::{Denoiser, Domain, NoiseLevel, NoiseSource, Prediction};
use diffusion_schedule::SamplingPlan;
use thiserror::Error;

/// Which images to make.
#[derive(Clone, Debug)]
pub struct SampleRequest<'a> {
    /// The seed of every random number.
    pub seed: u64,
    /// The images' indices; image i has the same noise wherever it is asked for, also twice.
    pub indices: Vec<u64>,
    /// [C, H, W].
    pub image_shape: [usize; 3],
    /// Where to compute.
    pub device: &'a Device,
}

impl SampleRequest<'_> {
    pub(crate) fn normal(&self, domain: Domain, draw: u64) -> candle_core::Result<Tensor> {
        let Self { seed, indices, image_shape, device } = self;
        NoiseSource::new(*seed).normal(domain, draw, indices.iter().copied(), image_shape, device)
    }

    /// Where sampling by `plan` begins: noise of variance 1, at the scale of the plan. It is what training ends in, or
    /// nearly so.
    ///
    /// # Errors
    /// Those of the device.
    pub fn initial(&self, plan: &SamplingPlan) -> candle_core::Result<Tensor> {
        self.normal(Domain::Initial, 0)?.affine(1.0 / plan.start().to_variance_preserving(), 0.0)
    }

    /// The noise of each step, by the number of steps left after it, so that the last steps of plans have the same noise
    /// however many steps there are.
    pub fn step_noise(&self, plan: &SamplingPlan) -> impl Fn(usize) -> candle_core::Result<Tensor> {
        let last = plan.steps().len() - 1;
        move |number| self.normal(Domain::Sampler, (last - number) as u64)
    }
}

/// The fresh noise of the step of the given number, of the images' shape.
pub type StepNoise<'a> = &'a dyn Fn(usize) -> candle_core::Result<Tensor>;

/// One step of the reverse process, as a sampler sees it.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// All steps.
    pub plan: &'a SamplingPlan,
    /// Counted from 0, the noisiest step.
    pub number: usize,
    /// Where x is.
    pub from: NoiseLevel,
    /// Where it is to be.
    pub to: NoiseLevel,
    /// Whether noise may be added.
    pub noisy: bool,
    noise: StepNoise<'a>,
}

impl Step<'_> {
    /// Steps in all.
    pub fn count(&self) -> usize {
        self.plan.steps().len()
    }

    /// Steps from this one on, itself included.
    pub fn left(&self) -> usize {
        self.count() - self.number
    }

    /// Halfway in time, where the plan knows it, else halfway in ln σ.
    pub fn middle(&self) -> NoiseLevel {
        self.plan.steps()[self.number].middle.unwrap_or_else(|| {
            let sigma = (self.from.sigma() * self.to.sigma()).sqrt();
            let timestep = f64::midpoint(self.from.timestep, self.to.timestep);
            NoiseLevel::variance_preserving(timestep, 1.0 / (1.0 + sigma * sigma))
        })
    }

    /// Standard normal noise of the images' shape, the same at every call within a step.
    ///
    /// # Errors
    /// Those of the device.
    pub fn noise(&self) -> candle_core::Result<Tensor> {
        (self.noise)(self.number)
    }
}

/// What differs between samplers: one step, and what is remembered from step to step.
pub trait Sampler {
    /// Forgets an earlier sampling. Called before the first step.
    fn begin(&mut self) {}

    /// x at `step.to` from `x` (N, C, H, W) at `step.from`.
    ///
    /// # Errors
    /// Those of the denoiser and the device.
    fn step(
        &mut self,
        step: &Step<'_>,
        x: &Tensor,
        denoiser: &dyn Denoiser,
    ) -> candle_core::Result<Tensor>;
}

/// How far sampling is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Steps that are done, 1 to `steps`.
    pub done: usize,
    /// Steps in all.
    pub steps: usize,
    /// Where they are after the step.
    pub level: NoiseLevel,
    /// The images after the step (N, C, H, W).
    pub x: &'a Tensor,
    /// The clean images as they were last estimated.
    pub x0: &'a Tensor,
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
        timestep: f64,
    },
    /// The denoiser's or the device's own error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Makes the images of `request`: runs `sampler` over the whole of `plan`, from pure noise to images (N, C, H, W).
/// `progress` is called after each step and may break off.
///
/// # Errors
/// Cancelling; a result that is not finite; those of the denoiser and the device.
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

/// As [`sample`], from given images (N, C, H, W) at the plan's start, with given noise for each step.
///
/// # Errors
/// As [`sample`].
pub fn sample_from(
    x: Tensor,
    denoiser: &dyn Denoiser,
    sampler: &mut dyn Sampler,
    plan: &SamplingPlan,
    noise: StepNoise<'_>,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Tensor, SampleError> {
    let (steps, mut x) = (plan.steps().len(), x);
    let observed = Observed { denoiser, x0: RefCell::new(x.clone()) };
    sampler.begin();
    for (number, &step) in plan.steps().iter().enumerate() {
        let step = Step { plan, number, from: step.from, to: step.to, noisy: step.noisy, noise };
        x = sampler.step(&step, &x, &observed)?;
        let done = number + 1;
        if !is_finite(&x)? {
            return Err(SampleError::NotFinite { done, steps, timestep: step.from.timestep });
        }
        let seen = Progress { done, steps, level: step.to, x: &x, x0: &observed.x0.borrow() };
        if progress(seen).is_break() && done < steps {
            return Err(SampleError::Cancelled { done, steps });
        }
    }
    Ok(x)
}

/// The step `number` of `plan` alone, by a sampler that remembers nothing of the steps before it: x (N, C, H, W) after the step, and
/// the clean images as they were last estimated on the way.
pub(crate) fn lone_step(
    number: usize,
    x: &Tensor,
    denoiser: &dyn Denoiser,
    sampler: &mut dyn Sampler,
    plan: &SamplingPlan,
    noise: StepNoise<'_>,
) -> candle_core::Result<(Tensor, Tensor)> {
    let observed = Observed { denoiser, x0: RefCell::new(x.clone()) };
    let step = plan.steps()[number];
    sampler.begin();
    let step = Step { plan, number, from: step.from, to: step.to, noisy: step.noisy, noise };
    let x = sampler.step(&step, x, &observed)?;
    Ok((x, observed.x0.into_inner()))
}

/// Whether all numbers are numbers.
pub(crate) fn is_finite(x: &Tensor) -> candle_core::Result<bool> {
    Ok(x.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?.is_finite())
}

/// A denoiser whose last estimate can be looked at.
struct Observed<'a> {
    denoiser: &'a dyn Denoiser,
    x0: RefCell<Tensor>,
}

impl Denoiser for Observed<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> candle_core::Result<Prediction> {
        let prediction = self.denoiser.denoise(x_t, level)?;
        *self.x0.borrow_mut() = prediction.x0.clone();
        Ok(prediction)
    }
}
