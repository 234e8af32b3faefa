//! The loop that generates images with a model, batch by batch.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use candle_core::{DType, Tensor};
use diffusion_process::{Denoiser, Threshold};
use diffusion_sample::edit::EditError;
use diffusion_sample::{
    Progress, SampleError, SampleRequest, Sampler, SamplerKind, SamplerOptions, sample_from,
};
use diffusion_schedule::{SamplingPlan, ScheduleError};

use crate::{GuidanceConfig, LoadedModel, ModelError, SamplingMethod};

/// An image to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// The index of its noise. The image depends on the seed and this index, not on its batch.
    pub index: u64,
    /// The class; `None` = unconditional.
    pub class: Option<u32>,
}

/// How images are sampled, except for guidance.
#[derive(Clone, Debug)]
pub struct SamplingConfig {
    /// The steps.
    pub plan: SamplingPlan,
    /// The sampler, unless there is a `method`.
    pub sampler: SamplerKind,
    /// Further settings of the sampler.
    pub options: SamplerOptions,
    /// The method that made the plan and takes its steps, instead of `sampler`.
    pub method: Option<Arc<dyn SamplingMethod>>,
    /// How x̂₀ is kept in range in each step.
    pub threshold: Option<Threshold>,
    /// Whether ε̂ stays unchanged by the threshold.
    pub keeps_noise: bool,
    /// Whether the result is clipped to \[−1, 1\].
    pub clips_result: bool,
    /// The seed of all noise.
    pub seed: u64,
    /// The number of images per batch; 0 means 1. Default: 64; larger batches are not faster on a
    /// CPU.
    pub batch_size: usize,
}

impl SamplingConfig {
    /// Clips x̂₀ to \[−1, 1\] in each step.
    pub const CLIP: Threshold = Threshold::Clip { range: 1.0 };
    const BATCH_SIZE: usize = 64;

    /// `steps` steps of `sampler` with the default plan of `model`. Other defaults: seed 0, clipped
    /// to \[−1, 1\].
    ///
    /// # Errors
    /// If `steps` is 0 or above that of the model's schedule.
    pub fn new(
        model: &LoadedModel,
        sampler: SamplerKind,
        steps: usize,
    ) -> Result<Self, ScheduleError> {
        Ok(Self::with_plan(model, model.objective.default_plan(steps)?, sampler))
    }

    /// Like [`new`](Self::new), with a custom plan.
    pub fn with_plan(model: &LoadedModel, plan: SamplingPlan, sampler: SamplerKind) -> Self {
        Self {
            plan,
            sampler,
            options: SamplerOptions {
                variance: model.description.variance(),
                ..SamplerOptions::default()
            },
            method: None,
            threshold: Some(Self::CLIP),
            keeps_noise: false,
            clips_result: true,
            seed: 0,
            batch_size: Self::BATCH_SIZE,
        }
    }

    /// `steps` steps of `method`, with its plan and threshold. The result is clipped.
    ///
    /// # Errors
    /// If the method does not have that many steps.
    pub fn with_method(
        model: &LoadedModel,
        method: Arc<dyn SamplingMethod>,
        steps: usize,
    ) -> Result<Self, ModelError> {
        let plan = method.plan(steps).map_err(ModelError::Method)?;
        let (threshold, keeps_noise) = method.threshold().unzip();
        let keeps_noise = keeps_noise.unwrap_or(false);
        let config = Self::with_plan(model, plan, SamplerKind::default());
        Ok(Self { method: Some(method), threshold, keeps_noise, ..config })
    }

    /// The configuration without any threshold.
    #[must_use]
    pub fn unclipped(self) -> Self {
        Self { threshold: None, clips_result: false, ..self }
    }

    /// The factor of noise of variance 1 at the start of the plan.
    fn initial_scale(&self) -> f64 {
        match &self.method {
            Some(method) => method.initial_scale(&self.plan),
            None => 1.0 / self.plan.start().to_variance_preserving(),
        }
    }
}

/// The progress of a generation, reported after each step of each batch.
#[derive(Clone, Copy, Debug)]
pub struct GenerationProgress<'p> {
    /// Completed batches.
    pub batch: usize,
    /// The total number of batches.
    pub batches: usize,
    /// The positions of the batch's images among all images.
    pub range: &'p Range<usize>,
    /// The total number of images.
    pub images: usize,
    /// Completed steps of this batch, 1 to `steps`.
    pub done: usize,
    /// The number of steps of a batch.
    pub steps: usize,
    /// The images of the batch after the step. `None` for inversion steps, which lead to noise.
    pub step: Option<&'p Progress<'p>>,
}

impl GenerationProgress<'_> {
    /// The number of completed steps of all batches.
    pub fn steps_done(&self) -> usize {
        self.batch * self.steps + self.done
    }
}

/// Called after each step of a generation; can stop it.
pub type Observer<'o> = dyn FnMut(&GenerationProgress<'_>) -> ControlFlow<()> + 'o;

/// Computes the images of one batch: by sampling from noise, or by any other operation.
pub type Operation<'o> = dyn Fn(&mut Batch<'_>) -> Result<Tensor, EditError> + 'o;

/// The inputs of an [`Operation`].
pub struct Batch<'b> {
    /// The positions of the batch's images among all images.
    pub range: Range<usize>,
    /// The guided model.
    pub denoiser: &'b dyn Denoiser,
    /// The sampler.
    pub sampler: &'b mut dyn Sampler,
    /// The steps.
    pub plan: &'b SamplingPlan,
    /// The seed, indices, shape and device of the images.
    pub request: &'b SampleRequest<'b>,
    /// Call this after each step, with the number of completed steps and, in sampling steps, the
    /// progress.
    pub observer: &'b mut dyn FnMut(usize, Option<&Progress<'_>>) -> ControlFlow<()>,
}

impl Batch<'_> {
    /// Samples images (N, C, H, W) from `x` (N, C, H, W) at the start of the plan. Without `x`,
    /// starts from the noise of the images' indices.
    ///
    /// # Errors
    /// If the observer stops, or if a result is not finite. Also an error of the denoiser or the
    /// device.
    pub fn sample(&mut self, x: Option<Tensor>) -> Result<Tensor, EditError> {
        let x = x.map_or_else(|| self.request.initial(self.plan), Ok)?;
        let noise = self.request.step_noise(self.plan);
        let observer = &mut |p: Progress<'_>| (self.observer)(p.done, Some(&p));
        Ok(sample_from(x, self.denoiser, self.sampler, self.plan, &noise, observer)?)
    }
}

/// The images of one batch.
#[derive(Clone, Debug)]
pub struct GeneratedBatch {
    /// Their positions among all images.
    pub range: Range<usize>,
    /// The images (N, C, H, W).
    pub images: Tensor,
}

/// Generates images with a model. All commands use this loop over batches.
pub struct Generator<'a> {
    /// The model.
    pub model: &'a LoadedModel,
    /// How images are sampled.
    pub config: SamplingConfig,
    /// The guidance.
    pub guidance: &'a GuidanceConfig,
}

impl Generator<'_> {
    /// Samples the images `specs`, batch by batch. Unless the configuration says otherwise, the
    /// result is clipped to \[−1, 1\], because multistep formulas may slightly exceed it. `noise`
    /// (N, C, H, W) with variance 1 replaces the initial noise of the images' indices.
    pub fn sample<'g>(
        &'g self,
        specs: &'g [ImageSpec],
        noise: Option<&'g Tensor>,
        observer: &'g mut Observer<'g>,
    ) -> Batches<'g> {
        let (clips, scale) = (self.config.clips_result, self.config.initial_scale());
        let operation = move |batch: &mut Batch<'_>| {
            let start = match noise {
                Some(noise) => noise.narrow(0, batch.range.start, batch.range.len())?,
                None => batch.request.noise()?,
            };
            let images = batch.sample(Some(start.affine(scale, 0.0)?))?;
            Ok(if clips { images.clamp(-1f32, 1f32)? } else { images })
        };
        self.apply(specs, self.config.plan.steps().len(), Box::new(operation), observer)
    }

    /// Applies `operation`, which takes `steps` steps, to each batch of `specs`.
    pub fn apply<'g>(
        &'g self,
        specs: &'g [ImageSpec],
        steps: usize,
        operation: Box<Operation<'g>>,
        observer: &'g mut Observer<'g>,
    ) -> Batches<'g> {
        Batches { generator: self, specs, steps, operation, observer, next: 0, state: State::Open }
    }
}

/// An iterator over the batches of a generation. It computes each batch on demand, and ends after
/// the first error.
pub struct Batches<'g> {
    generator: &'g Generator<'g>,
    specs: &'g [ImageSpec],
    steps: usize,
    operation: Box<Operation<'g>>,
    observer: &'g mut Observer<'g>,
    /// The number of the next batch.
    next: usize,
    state: State,
}

enum State {
    Open,
    /// The observer stopped after the last step of a batch. That batch is still returned.
    Stopped,
    Closed,
}

impl Batches<'_> {
    /// All images (N, C, H, W) in one tensor.
    ///
    /// # Errors
    /// The first error of a batch; the images of earlier batches are lost.
    pub fn all(self) -> Result<Tensor, ModelError> {
        let LoadedModel { description, device, .. } = self.generator.model;
        let batches =
            self.map(|batch| Ok(batch?.images)).collect::<Result<Vec<_>, ModelError>>()?;
        if batches.is_empty() {
            let [c, h, w] = description.image_shape;
            return Ok(Tensor::zeros((0, c, h, w), DType::F32, device)?);
        }
        Ok(Tensor::cat(&batches, 0)?)
    }

    fn compute(&mut self, range: Range<usize>) -> Result<GeneratedBatch, ModelError> {
        let Generator { model, config, guidance } = self.generator;
        let specs = &self.specs[range.clone()];
        let request = SampleRequest {
            seed: config.seed,
            indices: specs.iter().map(|spec| spec.index).collect(),
            image_shape: model.description.image_shape,
            device: &model.device,
        };
        let classes: Vec<Option<u32>> = specs.iter().map(|spec| spec.class).collect();
        let (batch, batches) = (self.next - 1, self.specs.len().div_ceil(config.batch_size.max(1)));
        let (images, steps, state, observer) =
            (self.specs.len(), self.steps, &mut self.state, &mut self.observer);
        let mut report = |done: usize, step: Option<&Progress<'_>>| {
            let range = &range;
            let flow =
                observer(&GenerationProgress { batch, batches, range, images, done, steps, step });
            if flow.is_break() {
                *state = State::Stopped;
            }
            flow
        };
        let mut sampler = match &config.method {
            Some(method) => method.sampler(),
            None => config.sampler.build(&config.options),
        };
        let threshold = config.threshold.map(|threshold| (threshold, config.keeps_noise));
        let operation = &self.operation;
        let images = guidance.apply(model, &classes, threshold, &mut |denoiser| {
            operation(&mut Batch {
                range: range.clone(),
                denoiser,
                sampler: &mut *sampler,
                plan: &config.plan,
                request: &request,
                observer: &mut report,
            })
        })?;
        Ok(GeneratedBatch { range, images })
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<GeneratedBatch, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        let size = self.generator.config.batch_size.max(1);
        let first = self.next * size;
        if first >= self.specs.len() || matches!(self.state, State::Closed) {
            return None;
        }
        if matches!(self.state, State::Stopped) {
            self.state = State::Closed;
            return Some(Err(SampleError::Cancelled { done: 0, steps: self.steps }.into()));
        }
        self.next += 1;
        let batch = self.compute(first..self.specs.len().min(first + size));
        if batch.is_err() {
            self.state = State::Closed;
        }
        Some(batch)
    }
}
