//! What a checkpoint says about its model.

use diffusion_process::PredictionType;
use diffusion_sample::{Guidance, VarianceType};
use diffusion_schedule::{ScheduleConfig, ScheduleError};
use diffusion_unet::NetworkConfig;
use serde::{Deserialize, Serialize};

use crate::{EdmConfig, GuidanceError, ModelClass, Objective};

/// Everything that sampling needs to know besides the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDescription {
    /// The network.
    pub network: NetworkConfig,
    /// The schedule it was trained on; flows and EDM do not use it.
    pub schedule: ScheduleConfig,
    /// What its output means; EDM does not use it.
    pub prediction_type: PredictionType,
    /// Its preconditioning, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edm: Option<EdmConfig>,
    /// The classes that the network is told of, in the order of its table; none: it knows no classes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ModelClass>,
    /// [C, H, W] of the images.
    pub image_shape: [usize; 3],
    /// The values that black and white have: [−1, 1].
    pub data_range: [f64; 2],
}

/// The values of black and white that this project trains with.
pub const DATA_RANGE: [f64; 2] = [-1.0, 1.0];

/// The largest side of an image; larger ones are a damaged file.
const MAX_SIDE: usize = 65_536;

impl ModelDescription {
    /// The process it was trained on.
    ///
    /// # Errors
    /// A schedule that cannot be built.
    pub fn objective(&self) -> Result<Objective, ScheduleError> {
        Objective::new(&self.schedule, self.prediction_type, self.edm)
    }

    /// How strongly images are pushed towards their class where nobody says: a little, which mends most of what a short training left
    /// wrong and costs little of the variety (docs/recipe.md has the figures); not at all where there is nothing to push away from.
    pub fn guidance(&self) -> Guidance {
        Guidance::new(if self.check_classifier_free().is_ok() { 1.1 } else { 1.0 })
    }

    /// Whether classifier-free guidance is possible.
    ///
    /// # Errors
    /// A network that knows no classes, or that cannot do without one.
    pub fn check_classifier_free(&self) -> Result<(), GuidanceError> {
        if self.classes.is_empty() {
            return Err(GuidanceError::NoClasses);
        }
        if !self.network.takes_no_class() {
            return Err(GuidanceError::NoUnconditional);
        }
        Ok(())
    }

    /// Whether the second half of the network's output is a variance.
    pub fn learned_variance(&self) -> bool {
        self.network.output_channels() != self.network.image_channels()
    }

    /// The variance of DDPM's steps for those who name none: the learned one where there is one.
    pub fn variance(&self) -> VarianceType {
        if self.learned_variance() { VarianceType::LearnedRange } else { VarianceType::FixedSmall }
    }

    /// What is impossible in a description that came from a file, if anything is: one sentence.
    pub fn problem(&self) -> Option<String> {
        let [channels, height, width] = self.image_shape;
        let multiple = self.network.size_multiple();
        let side = |side: usize| (1..=MAX_SIDE).contains(&side) && side.is_multiple_of(multiple);
        if channels != self.network.image_channels() || !side(height) || !side(width) {
            return Some(format!(
                "image_shape is {:?}, which does not fit the network",
                self.image_shape
            ));
        }
        let [input, output] = [channels, self.network.output_channels()];
        if output != input && output != 2 * input {
            return Some(format!(
                "the network gives {output} channels; it must be {input}, or twice as many"
            ));
        }
        if self.classes.len() != self.network.classes() {
            let [named, known] = [self.classes.len(), self.network.classes()];
            return Some(format!("it names {named} classes, and its network knows {known}"));
        }
        if let Some((field, value, expected)) = self.edm.and_then(|edm| edm.problem()) {
            return Some(format!("{field} is {value}; {expected}"));
        }
        if self.data_range != DATA_RANGE {
            return Some(format!(
                "data_range is {:?}; this program knows {DATA_RANGE:?} only",
                self.data_range
            ));
        }
        match self.objective() {
            Ok(objective) if self.learned_variance() && objective.schedule().is_none() => {
                Some(format!("it learned a variance, which {} has none of", objective.name()))
            }
            Ok(_) => None,
            Err(e) => Some(format!("schedule: {e}")),
        }
    }
}
