//! Generating images in one call.

use std::ops::ControlFlow;

use candle_core::Tensor;
use diffusion_sample::{Guidance, SamplerKind, SamplerOptions};

use crate::{
    ClassChoice, GenerationProgress, Generator, GuidanceConfig, LoadedModel, ModelError, Observer,
    SamplingConfig,
};

/// What to generate, and with which settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The sampler. Default: the method that the model came with, or else the one that suits it.
    pub sampler: Option<SamplerKind>,
    /// The number of steps: at least 1, at most those of the model's schedule. Default: as suits
    /// the sampler.
    pub steps: Option<usize>,
    /// Further settings of the sampler. Default: the sampler's defaults, with the learned variance
    /// if the model has one.
    pub options: Option<SamplerOptions>,
    /// The seed of the noise. Default: 0.
    pub seed: u64,
    /// The number of images.
    pub num: u64,
    /// Clip x̂₀ to \[−1, 1\] in each step, and the result at the end. Default: true.
    pub clip: bool,
    /// The classes of the images. Default: drawn with their training frequencies.
    pub classes: ClassChoice,
    /// The guidance towards the class. Default:
    /// [`ModelDescription::guidance`](crate::ModelDescription::guidance).
    pub guidance: Option<Guidance>,
}

impl Generation {
    /// `num` images with the default settings.
    pub fn new(num: u64) -> Self {
        Self {
            sampler: None,
            steps: None,
            options: None,
            seed: 0,
            num,
            clip: true,
            classes: ClassChoice::default(),
            guidance: None,
        }
    }
}

impl LoadedModel {
    /// Generates images (N, C, H, W), in \[−1, 1\] if they are clipped. Image i depends only on the
    /// seed and on i. `observer` can stop the generation; the result is then an error for which
    /// [`ModelError::is_cancelled`] is true.
    ///
    /// # Errors
    /// If the sampler or the guidance does not suit the model, if the number of steps is 0 or above
    /// that of the schedule, if `observer` stops, or if a result is not finite. Also an error of
    /// the model or the device.
    pub fn generate(
        &self,
        generation: &Generation,
        observer: &mut dyn FnMut(&GenerationProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Tensor, ModelError> {
        let mut config = match (generation.sampler, &self.method) {
            (None, Some(method)) => {
                let steps = generation.steps.unwrap_or(method.default_steps());
                SamplingConfig::with_method(self, method.clone(), steps)?
            }
            (sampler, _) => {
                let learned = self.description.learned_variance();
                let sampler = sampler.unwrap_or(self.objective.default_sampler(learned));
                self.objective.check_sampler(sampler)?;
                let steps = generation.steps.unwrap_or(self.objective.default_steps(sampler));
                SamplingConfig::new(self, sampler, steps)?
            }
        };
        config.seed = generation.seed;
        if let Some(options) = generation.options {
            config.options = options;
        }
        if !generation.clip {
            config = config.unclipped();
        }
        if generation.guidance.is_some_and(|guidance| guidance.scale != 1.0) {
            self.description.check_classifier_free()?;
        }
        let guidance = generation.guidance.unwrap_or_else(|| self.description.guidance());
        let guidance = GuidanceConfig::classifier_free(guidance);
        let specs =
            generation.classes.specs(generation.seed, 0..generation.num, &self.description.classes);
        let generator = Generator { model: self, config, guidance: &guidance };
        // Wrapped in a closure, so that the lifetime of what the observer borrows does not matter.
        let observer: &mut Observer<'_> =
            &mut |progress: &GenerationProgress<'_>| observer(progress);
        generator.sample(&specs, None, observer).all()
    }
}
