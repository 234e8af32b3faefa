//! Many images in one call.

use std::ops::ControlFlow;

use candle_core::Tensor;
use diffusion_sample::{Guidance, SamplerKind, SamplerOptions};

use crate::{
    ClassChoice, GenerationProgress, Generator, GuidanceConfig, LoadedModel, ModelError, Observer,
    SamplingConfig,
};

/// What is to be generated, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The sampler; none: the one that suits the model.
    pub sampler: Option<SamplerKind>,
    /// Its steps, at least 1 and at most as many as a schedule has; none: as many as suit the sampler.
    pub steps: Option<usize>,
    /// The sampler's other settings; none: its defaults, with the variance that the model has learned, if it has.
    pub options: Option<SamplerOptions>,
    /// The seed of the noise.
    pub seed: u64,
    /// Images.
    pub num: u64,
    /// Cut the predicted image to \[−1, 1\] at each step, and the result at the end.
    pub clip: bool,
    /// The classes of the images, by a model with classes.
    pub classes: ClassChoice,
    /// How strongly the class is followed; none: as [`ModelDescription::guidance`](crate::ModelDescription::guidance) says.
    pub guidance: Option<Guidance>,
}

impl Generation {
    /// `num` images with the defaults: clipped, of the classes that training had, from seed 0, by the sampler, the steps and the
    /// guidance that suit the model.
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
    /// Images (N, C, H, W) in \[−1, 1\] unless they are not clipped. Image i depends on the seed and on i alone. `observer` may
    /// stop the generation, which is then an error, see [`ModelError::is_cancelled`].
    ///
    /// # Errors
    /// A sampler or a guidance that does not suit the model; steps that its schedule does not have; those of the model and the device.
    pub fn generate(
        &self,
        generation: &Generation,
        observer: &mut dyn FnMut(&GenerationProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Tensor, ModelError> {
        let learned = self.description.learned_variance();
        let sampler = generation.sampler.unwrap_or(self.objective.sampler(learned));
        self.objective.check_sampler(sampler)?;
        let steps = generation.steps.unwrap_or(self.objective.default_steps(sampler));
        let mut config = SamplingConfig::new(self, sampler, steps)?;
        config.seed = generation.seed;
        if let Some(options) = generation.options {
            config.options = options;
        }
        if !generation.clip {
            config.threshold = None;
        }
        if generation.guidance.is_some_and(|guidance| guidance.scale != 1.0) {
            self.description.check_classifier_free()?;
        }
        let guidance = generation.guidance.unwrap_or_else(|| self.description.guidance());
        let guidance = GuidanceConfig::classifier_free(guidance);
        let specs =
            generation.classes.specs(generation.seed, 0..generation.num, &self.description.classes);
        let generator = Generator { model: self, config, guidance: &guidance };
        // A reference to a function is an observer too, whatever it borrows.
        let observer: &mut Observer<'_> =
            &mut |progress: &GenerationProgress<'_>| observer(progress);
        generator.sample(&specs, None, observer).all()
    }
}
