//! How unlike each other the images of one class are.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::points::Points;
use crate::EvalError;

/// The mean distance between two images of the same class in `features` (N, D), over all such pairs;
/// `classes` has N entries. None where no class has two images. Guidance makes it smaller.
///
/// # Errors
/// A feature that is not finite.
pub fn diversity(features: &Tensor, classes: &[Option<u32>]) -> Result<Option<f64>, EvalError> {
    let mut members = BTreeMap::<u32, Vec<u32>>::new();
    for (i, class) in (0..).zip(classes) {
        if let Some(class) = class {
            members.entry(*class).or_default().push(i);
        }
    }
    let (mut sum, mut pairs) = (0.0, 0usize);
    for own in members.into_values().filter(|own| own.len() > 1) {
        pairs += own.len() * (own.len() - 1);
        let points =
            Points::new(&features.index_select(&Tensor::new(own, features.device())?, 0)?)?;
        points.each_row_of_distances(&points, |i, row| {
            let others = row.iter().enumerate().filter(|(j, _)| *j != i);
            sum += others.map(|(_, square)| square.sqrt()).sum::<f64>();
        })?;
    }
    Ok((pairs > 0).then(|| sum / pairs as f64))
}
