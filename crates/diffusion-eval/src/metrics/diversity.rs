//! The diversity of images within a class.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::points::Points;
use crate::EvalError;

/// The mean distance between two images of the same class, over all such pairs.
///
/// `features` are (N, D) and `classes` has N entries. `None` if no class has two images. Guidance
/// reduces the diversity.
///
/// # Errors
/// If a feature is not finite.
pub fn diversity(features: &Tensor, classes: &[Option<u32>]) -> Result<Option<f64>, EvalError> {
    let mut members = BTreeMap::<u32, Vec<u32>>::new();
    for (i, class) in (0..).zip(classes) {
        if let Some(class) = class {
            members.entry(*class).or_default().push(i);
        }
    }
    let (mut sum, mut pairs) = (0.0, 0usize);
    for indices in members.into_values().filter(|indices| indices.len() > 1) {
        pairs += indices.len() * (indices.len() - 1);
        let points =
            Points::new(&features.index_select(&Tensor::new(indices, features.device())?, 0)?)?;
        points.each_row_of_distances(&points, |i, row| {
            let others = row.iter().enumerate().filter(|(j, _)| *j != i);
            sum += others.map(|(_, square)| square.sqrt()).sum::<f64>();
        })?;
    }
    Ok((pairs > 0).then(|| sum / pairs as f64))
}
