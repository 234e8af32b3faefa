//! The metrics of one step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The metrics of one step, a line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The number of updates made, so counted from 1.
    pub step: u64,
    /// The number of complete passes over the data before this step.
    pub epoch: u64,
    /// The mean loss of the batch.
    pub loss: f64,
    /// The mean loss of the images in each quarter of the training's noise levels, cleanest first;
    /// `null` for a quarter without images.
    pub loss_by_t_quartile: [Option<f64>; 4],
    /// The learning rate of the update.
    pub lr: f64,
    /// The gradient norm before clipping.
    pub grad_norm: f64,
    /// Training images per second of the whole loop, averaged over about the last ten steps; 0 if
    /// unknown.
    pub images_per_second: f64,
    /// The mean loss of the EMA weights on the validation pictures, at steps where it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// Metrics of images sampled with the EMA weights, for example `frechet_distance`, at steps
    /// where they were computed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub samples: BTreeMap<String, f64>,
    /// The features that `samples` were computed with; missing without features and in older runs,
    /// which had those of the digit judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<String>,
}

/// The key in [`StepMetrics::samples`] of the share of validation pictures that are as near to a
/// training picture as a copy.
pub const VALIDATION_COPIES: &str = "validation_copies";

/// The share of copies from which on a model is said to copy, beyond that of validation pictures.
const COPYING: f64 = 0.05;

impl StepMetrics {
    /// Whether the samples of this step show that the model copies training pictures.
    pub fn shows_copies(&self) -> bool {
        let share = |key: &str| self.samples.get(key).copied();
        let expected = share(VALIDATION_COPIES).unwrap_or(0.0);
        share("copies").is_some_and(|copies| copies >= expected + COPYING)
    }
}

/// The mean of `losses` in each quarter. `shares` holds each image's position in the distribution
/// of noise levels, in [0, 1).
pub(crate) fn by_quartile(losses: &[f32], shares: &[f64]) -> [Option<f64>; 4] {
    std::array::from_fn(|quartile| {
        let chosen: Vec<f64> = losses
            .iter()
            .zip(shares)
            .filter(|(_, share)| ((*share * 4.0) as usize).min(3) == quartile)
            .map(|(loss, _)| f64::from(*loss))
            .collect();
        (!chosen.is_empty()).then(|| chosen.iter().sum::<f64>() / chosen.len() as f64)
    })
}

#[cfg(test)]
mod tests {
    use super::by_quartile;

    #[test]
    fn quartiles_split_the_schedule_evenly() {
        let losses = [1.0, 3.0, 5.0, 7.0];
        assert_eq!(
            by_quartile(&losses, &[0.0, 0.245, 0.25, 0.995]),
            [Some(2.0), Some(5.0), None, Some(7.0)]
        );
    }
}
