//! The description of a model in a checkpoint.

use diffusion_process::PredictionType;
use diffusion_sample::{Guidance, VarianceType};
use diffusion_schedule::{ScheduleConfig, ScheduleError};
use diffusion_unet::NetworkConfig;
use serde::{Deserialize, Serialize};

use crate::{EdmConfig, GuidanceError, ModelClass, Objective};

/// Everything that sampling needs besides the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDescription {
    /// The configuration of the network.
    pub network: NetworkConfig,
    /// The noise schedule of the training. Not used by flow and EDM models.
    pub schedule: ScheduleConfig,
    /// What the network predicts. Not used by EDM models.
    pub prediction_type: PredictionType,
    /// The EDM preconditioning. `None` for other models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edm: Option<EdmConfig>,
    /// The classes in the order of the network's class embedding. Empty for an unconditional model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ModelClass>,
    /// The shape (C, H, W) of the images.
    pub image_shape: [usize; 3],
    /// The values of black and white: always [−1, 1].
    pub data_range: [f64; 2],
    /// The scale of classifier-free guidance that sampling uses by default. Default (`None`): 1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
}

/// The values of black and white in this project.
pub const DATA_RANGE: [f64; 2] = [-1.0, 1.0];

/// The largest supported side of an image, in pixels. A larger value means a damaged file.
const MAX_SIDE: usize = 65_536;

impl ModelDescription {
    /// The process that the model was trained on.
    ///
    /// # Errors
    /// If the schedule is invalid.
    pub fn objective(&self) -> Result<Objective, ScheduleError> {
        Objective::new(&self.schedule, self.prediction_type, self.edm)
    }

    /// The default guidance: [`guidance_scale`](Self::guidance_scale), or 1.0 if classifier-free
    /// guidance is impossible. A little guidance corrects most errors of a short training and costs
    /// little variety (figures: docs/recipe.md).
    pub fn guidance(&self) -> Guidance {
        let is_possible = self.check_classifier_free().is_ok();
        Guidance::new(if is_possible { self.guidance_scale.unwrap_or(1.1) } else { 1.0 })
    }

    /// Checks that classifier-free guidance is possible.
    ///
    /// # Errors
    /// If the model has no classes, or if the network cannot predict without a class.
    pub fn check_classifier_free(&self) -> Result<(), GuidanceError> {
        if self.classes.is_empty() {
            return Err(GuidanceError::NoClasses);
        }
        if !self.network.supports_unconditional() {
            return Err(GuidanceError::NoUnconditional);
        }
        Ok(())
    }

    /// Whether the second half of the network's output is a variance.
    pub fn learned_variance(&self) -> bool {
        self.network.output_channels() != self.network.image_channels()
    }

    /// The default variance of DDPM's steps: the learned one if the network predicts it.
    pub fn variance(&self) -> VarianceType {
        if self.learned_variance() { VarianceType::LearnedRange } else { VarianceType::FixedSmall }
    }

    /// Checks a description that was read from a file. Returns one sentence about the first
    /// problem, or `None`.
    pub fn problem(&self) -> Option<String> {
        let [channels, height, width] = self.image_shape;
        let multiple = self.network.size_multiple();
        let side = |side: usize| (1..=MAX_SIDE).contains(&side) && side.is_multiple_of(multiple);
        if channels != self.network.image_channels() || !side(height) || !side(width) {
            return Some(format!(
                "image_shape is {:?}, which does not fit the network: expected {} channels, and \
                 sides that are multiples of {multiple}, at most {MAX_SIDE}",
                self.image_shape,
                self.network.image_channels()
            ));
        }
        let [input, output] = [channels, self.network.output_channels()];
        if output != input && output != 2 * input {
            return Some(format!(
                "the network gives {output} channels; expected {input}, or {} with a learned \
                 variance",
                2 * input
            ));
        }
        if self.classes.len() != self.network.classes() {
            let [listed, expected] = [self.classes.len(), self.network.classes()];
            return Some(format!(
                "the description lists {listed} classes, but the network has {expected}"
            ));
        }
        if let Some((field, value, expected)) = self.edm.and_then(|edm| edm.problem()) {
            return Some(format!("{field} is {value}; {expected}"));
        }
        if self.data_range != DATA_RANGE {
            return Some(format!(
                "data_range is {:?}; only {DATA_RANGE:?} is supported",
                self.data_range
            ));
        }
        if let Some(scale) = self.guidance_scale
            && !(-1000.0..=1000.0).contains(&scale)
        {
            return Some(format!("guidance_scale is {scale}; it must be from -1000 to 1000"));
        }
        match self.objective() {
            Ok(objective) if self.learned_variance() && objective.schedule().is_none() => {
                Some(format!("it learned a variance, which {} does not support", objective.name()))
            }
            Ok(_) => None,
            Err(e) => Some(format!("schedule: {e}")),
        }
    }
}
