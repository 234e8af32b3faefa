//! Many images of a model, batch by batch.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use diffusion_process::{ConditionalDenoiser, Denoiser, Threshold, Thresholded};
use diffusion_sample::{
    ClassifierFree, Guidance, Progress, SampleError, SampleRequest, SamplerKind, SamplerOptions, sample,
};

use crate::{ClassChoice, LoadedModel, ModelDescription, Objective, TrainError, Trainer};

/// Images computed together: more are not faster.
const BATCH: u64 = 64;

/// Looks at images (N, C, H, W) in \[−1, 1\] and says what they are worth, by name.
pub type Judge = dyn Fn(&Tensor) -> Result<BTreeMap<String, f64>, Box<dyn Error + Send + Sync>> + Send + Sync;

/// A judge of the images that a training draws on its way.
pub struct SampleJudge {
    /// Steps between two looks, at least 1; the last step is always looked at.
    pub every: u64,
    /// Images to draw for each look.
    pub num: u64,
    /// Who looks.
    pub judge: Box<Judge>,
}

/// What is to be generated, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The sampler.
    pub sampler: SamplerKind,
    /// Its steps, at least 1 and at most as many as a schedule has.
    pub steps: usize,
    /// What else the sampler is told.
    pub options: SamplerOptions,
    /// The seed of the noise.
    pub seed: u64,
    /// Images, at least 1.
    pub num: u64,
    /// Cut the predicted image to \[−1, 1\] at each step, and the result at the end.
    pub clip: bool,
    /// What the images are to be, by a model with classes.
    pub classes: ClassChoice,
    /// How strongly; none: as [`ModelDescription::guidance`] says.
    pub guidance: Option<Guidance>,
}

impl Generation {
    /// `num` images by `sampler` in `steps` steps, as is usual otherwise: clipped, of the classes that training had, from seed 0.
    pub fn new(sampler: SamplerKind, steps: usize, num: u64) -> Self {
        Self {
            sampler,
            steps,
            options: SamplerOptions::default(),
            seed: 0,
            num,
            clip: true,
            classes: ClassChoice::default(),
            guidance: None,
        }
    }
}

impl LoadedModel {
    /// Images (N, C, H, W) on `device`. Image i depends on the seed and on i alone. `observer` is told how many images are done and how
    /// far the batch that is being computed is; it breaks the work off with
    /// [`SampleError::Cancelled`](diffusion_sample::SampleError::Cancelled).
    ///
    /// # Errors
    /// Steps that the schedule does not have; those of the model and the sampler.
    pub fn generate(
        &self,
        generation: &Generation,
        device: &Device,
        observer: &mut dyn FnMut(u64, &Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Tensor, TrainError> {
        generate(&self.objective, &self.denoiser, &self.description, generation, device, observer)
    }
}

impl Trainer {
    /// As [`LoadedModel::generate`], by the averaged weights as they are now.
    ///
    /// # Errors
    /// As there.
    pub fn generate(
        &self,
        generation: &Generation,
        observer: &mut dyn FnMut(u64, &Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Tensor, TrainError> {
        let denoiser = self.objective().denoiser(self.averaged_network()?);
        generate(self.objective(), &denoiser, self.description(), generation, self.device(), observer)
    }
}

/// Images by `denoiser`, the model of `objective` that `description` describes.
fn generate(
    objective: &Objective,
    denoiser: &dyn ConditionalDenoiser,
    description: &ModelDescription,
    generation: &Generation,
    device: &Device,
    observer: &mut dyn FnMut(u64, &Progress<'_>) -> ControlFlow<()>,
) -> Result<Tensor, TrainError> {
    let plan = objective.usual_plan(generation.steps)?;
    let guidance = generation.guidance.unwrap_or_else(|| description.guidance());
    let mut images = Vec::new();
    let (mut stopped, steps) = (false, plan.steps().len());
    for first in (0..generation.num).step_by(BATCH as usize) {
        if stopped {
            return Err(SampleError::Cancelled { done: 0, steps }.into());
        }
        let indices: Vec<u64> = (first..generation.num.min(first + BATCH)).collect();
        let classes = generation.classes.classes(generation.seed, &indices, &description.classes);
        let guided = ClassifierFree::new(denoiser, classes, guidance);
        let clipped = Thresholded::new(&guided, Threshold::Clip { range: 1.0 });
        let request =
            SampleRequest { seed: generation.seed, indices, image_shape: description.image_shape, device };
        let chosen: &dyn Denoiser = if generation.clip { &clipped } else { &guided };
        let mut sampler = generation.sampler.build(&generation.options);
        let batch = sample(chosen, &mut *sampler, &plan, &request, &mut |progress| {
            let flow = observer(first, &progress);
            // In the last step of a batch it is the next one that is not begun.
            stopped = flow.is_break();
            flow
        })?;
        // A formula of several steps may lead a little beyond what each was kept in.
        images.push(if generation.clip { batch.clamp(-1f32, 1f32)? } else { batch });
    }
    Ok(Tensor::cat(&images, 0)?)
}
