//! The one loop in which a model makes images, batch by batch.

use std::ops::{ControlFlow, Range};

use candle_core::{DType, Tensor};
use diffusion_process::{Denoiser, Threshold};
use diffusion_sample::edit::EditError;
use diffusion_sample::{
    Progress, SampleError, SampleRequest, Sampler, SamplerKind, SamplerOptions, sample_from,
};
use diffusion_schedule::{SamplingPlan, ScheduleError};

use crate::{GuidanceConfig, LoadedModel, ModelError};

/// An image to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// The number of its noise: the image depends on the seed and on this only, not on its batch.
    pub index: u64,
    /// Its class; none: unconditional.
    pub class: Option<u32>,
}

/// How images are made, but for what steers them.
#[derive(Clone, Debug)]
pub struct SamplingConfig {
    /// The steps.
    pub plan: SamplingPlan,
    /// The sampler.
    pub sampler: SamplerKind,
    /// The sampler's other settings.
    pub options: SamplerOptions,
    /// How x̂₀ is kept in range at each step; if it is, so is the result.
    pub threshold: Option<Threshold>,
    /// The seed of all noise.
    pub seed: u64,
    /// Images computed together; 0 counts as 1. Default: 64; more are not faster on a CPU.
    pub batch_size: usize,
}

impl SamplingConfig {
    /// Images are cut to this range at each step.
    pub const CLIP: Threshold = Threshold::Clip { range: 1.0 };
    const BATCH_SIZE: usize = 64;

    /// `steps` steps of `sampler` through the process of `model`, with the defaults otherwise: seed 0, clipped to \[−1, 1\].
    ///
    /// # Errors
    /// No steps, or more than the model's schedule has.
    pub fn new(
        model: &LoadedModel,
        sampler: SamplerKind,
        steps: usize,
    ) -> Result<Self, ScheduleError> {
        Ok(Self::along(model, model.objective.usual_plan(steps)?, sampler))
    }

    /// As [`new`](Self::new), along a plan of one's own.
    pub fn along(model: &LoadedModel, plan: SamplingPlan, sampler: SamplerKind) -> Self {
        Self {
            plan,
            sampler,
            options: SamplerOptions {
                variance: model.description.variance(),
                ..SamplerOptions::default()
            },
            threshold: Some(Self::CLIP),
            seed: 0,
            batch_size: Self::BATCH_SIZE,
        }
    }
}

/// How far a generation is: reported after each step of each batch.
#[derive(Clone, Copy, Debug)]
pub struct GenerationProgress<'p> {
    /// Batches that are complete.
    pub batch: usize,
    /// Batches in all.
    pub batches: usize,
    /// The positions of the batch's images among all.
    pub range: &'p Range<usize>,
    /// Images in all.
    pub images: usize,
    /// Steps of this batch that are done, 1 to `steps`.
    pub done: usize,
    /// Steps of a batch.
    pub steps: usize,
    /// The images of the batch after the step, if it led towards images.
    pub step: Option<&'p Progress<'p>>,
}

impl GenerationProgress<'_> {
    /// Steps of all batches that are done.
    pub fn steps_done(&self) -> usize {
        self.batch * self.steps + self.done
    }
}

/// Looks at a generation after each step, and may stop it.
pub type Observer<'o> = dyn FnMut(&GenerationProgress<'_>) -> ControlFlow<()> + 'o;

/// What is done with each batch: from its noise, or whatever the operation begins with, to its images.
pub type Operation<'o> = dyn Fn(&mut Batch<'_>) -> Result<Tensor, EditError> + 'o;

/// What an [`Operation`] works with.
pub struct Batch<'b> {
    /// The positions of its images among all.
    pub range: Range<usize>,
    /// The model, steered.
    pub denoiser: &'b dyn Denoiser,
    /// The sampler.
    pub sampler: &'b mut dyn Sampler,
    /// The steps.
    pub plan: &'b SamplingPlan,
    /// Which noise, which shape, and where.
    pub request: &'b SampleRequest<'b>,
    /// To be called after each step with the number of steps done, and what they led to if they led towards images.
    pub observer: &'b mut dyn FnMut(usize, Option<&Progress<'_>>) -> ControlFlow<()>,
}

impl Batch<'_> {
    /// Samples the images from `x` (N, C, H, W) at the plan's start, or without one from their own noise.
    ///
    /// # Errors
    /// Those of [`sample_from`].
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
    /// Their positions among all.
    pub range: Range<usize>,
    /// (N, C, H, W).
    pub images: Tensor,
}

/// Makes images with a model: the one loop over batches, behind every command.
pub struct Generator<'a> {
    /// The model.
    pub model: &'a LoadedModel,
    /// How images are made.
    pub config: SamplingConfig,
    /// What steers them.
    pub guidance: &'a GuidanceConfig,
}

impl Generator<'_> {
    /// The images `specs`, batch by batch, cut to \[−1, 1\] if the configuration keeps x̂₀ in range: a formula of several steps
    /// may lead a little beyond. `noise` (N, C, H, W) of variance 1 is what they begin with; none: that of their numbers.
    pub fn sample<'g>(
        &'g self,
        specs: &'g [ImageSpec],
        noise: Option<&'g Tensor>,
        observer: &'g mut Observer<'g>,
    ) -> Batches<'g> {
        let in_range = self.config.threshold.is_some();
        let operation = move |batch: &mut Batch<'_>| {
            let scale = 1.0 / batch.plan.start().to_variance_preserving();
            let own = noise.map(|noise| {
                noise.narrow(0, batch.range.start, batch.range.len())?.affine(scale, 0.0)
            });
            let images = batch.sample(own.transpose()?)?;
            Ok(if in_range { images.clamp(-1f32, 1f32)? } else { images })
        };
        self.apply(specs, self.config.plan.steps().len(), Box::new(operation), observer)
    }

    /// `operation`, which takes `steps` steps, on each batch of `specs`.
    pub fn apply<'g>(
        &'g self,
        specs: &'g [ImageSpec],
        steps: usize,
        operation: Box<Operation<'g>>,
        observer: &'g mut Observer<'g>,
    ) -> Batches<'g> {
        Batches { generator: self, specs, steps, operation, observer, next: 0, end: End::Open }
    }
}

/// The batches of a generation: an iterator that computes each when it is asked for it. After an error there is nothing more.
pub struct Batches<'g> {
    generator: &'g Generator<'g>,
    specs: &'g [ImageSpec],
    steps: usize,
    operation: Box<Operation<'g>>,
    observer: &'g mut Observer<'g>,
    /// The batch that comes next.
    next: usize,
    end: End,
}

enum End {
    Open,
    /// The observer said so after the last step of a batch, whose images count.
    Stopped,
    Closed,
}

impl Batches<'_> {
    /// All images (N, C, H, W).
    ///
    /// # Errors
    /// The first error of a batch; no images.
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
        let (images, steps, end, observer) =
            (self.specs.len(), self.steps, &mut self.end, &mut self.observer);
        let mut report = |done: usize, step: Option<&Progress<'_>>| {
            let range = &range;
            let flow =
                observer(&GenerationProgress { batch, batches, range, images, done, steps, step });
            if flow.is_break() {
                *end = End::Stopped;
            }
            flow
        };
        let mut sampler = config.sampler.build(&config.options);
        let operation = &self.operation;
        let images = guidance.apply(model, &classes, config.threshold, &mut |denoiser| {
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
        if first >= self.specs.len() || matches!(self.end, End::Closed) {
            return None;
        }
        if matches!(self.end, End::Stopped) {
            self.end = End::Closed;
            return Some(Err(SampleError::Cancelled { done: 0, steps: self.steps }.into()));
        }
        self.next += 1;
        let batch = self.compute(first..self.specs.len().min(first + size));
        if batch.is_err() {
            self.end = End::Closed;
        }
        Some(batch)
    }
}
