//! What one step reports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The step, counted from 1: the number of updates made.
    pub step: u64,
    /// Passes over the data that were complete before this step.
    pub epoch: u64,
    /// The mean loss of the batch.
    pub loss: f64,
    /// The mean loss of the images whose noise level lies in each quarter of those of training, cleanest first; `null` if
    /// there were none.
    pub loss_by_t_quartile: [Option<f64>; 4],
    /// The learning rate of the update.
    pub lr: f64,
    /// The norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Images trained on per second of the whole loop, over the last few steps; 0 before it is known.
    pub images_per_second: f64,
    /// The mean loss of the averaged weights on the pictures kept out of training; only where it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// What a judge says of images drawn from the averaged weights, `frechet_distance` say; only where it was asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub samples: BTreeMap<String, f64>,
}

/// Means of `losses` over the images of each quarter; `shares` says where in [0, 1) each image is.
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
    fn quartiles_part_the_schedule_evenly() {
        let losses = [1.0, 3.0, 5.0, 7.0];
        assert_eq!(
            by_quartile(&losses, &[0.0, 0.245, 0.25, 0.995]),
            [Some(2.0), Some(5.0), None, Some(7.0)]
        );
    }
}
