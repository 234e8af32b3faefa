//! The classes that a classifier recognises in images.

use candle_core::{D, Tensor};

/// The probability above which a classifier is sure of a class.
const SURE: f64 = 0.95;

/// The classes that a classifier recognises in a set of images.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassShares {
    /// The share of images of each class, in \[0, 1\].
    pub shares: Vec<f64>,
    /// The share of images whose likeliest class has a probability above 0.95, in \[0, 1\].
    pub sure: f64,
    /// The mean probability of the likeliest class, in \[0, 1\].
    pub confidence: f64,
}

impl ClassShares {
    /// The share of the rarest class.
    pub fn smallest(&self) -> f64 {
        self.shares.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The share of images whose recognised class is the requested one, in \[0, 1\]. Images without
    /// a requested class do not count; `None` if no image has one. `logits` are (N, classes), and
    /// `requested` has N entries.
    ///
    /// # Errors
    /// If `logits` does not have rank 2.
    pub fn class_accuracy(
        logits: &Tensor,
        requested: &[Option<u32>],
    ) -> candle_core::Result<Option<f64>> {
        let recognised = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let pairs = recognised
            .into_iter()
            .zip(requested)
            .filter_map(|(recognised, requested)| Some((recognised, (*requested)?)));
        let [mut all, mut right] = [0usize; 2];
        for (recognised, requested) in pairs {
            all += 1;
            right += usize::from(recognised == requested);
        }
        Ok((all > 0).then(|| right as f64 / all as f64))
    }

    /// The shares from `logits` (N, classes); N must be at least 1.
    ///
    /// # Errors
    /// If `logits` does not have rank 2. If there are no images.
    pub fn of(logits: &Tensor) -> candle_core::Result<Self> {
        let (count, classes) = logits.dims2()?;
        let probabilities = candle_nn::ops::softmax(logits, D::Minus1)?;
        let recognised = probabilities.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let mut counts = vec![0usize; classes];
        for class in recognised {
            counts[class as usize] += 1;
        }
        let likeliest: Vec<f64> =
            probabilities.max(D::Minus1)?.to_vec1::<f32>()?.into_iter().map(f64::from).collect();
        Ok(Self {
            shares: counts.into_iter().map(|class| class as f64 / count as f64).collect(),
            sure: likeliest.iter().filter(|probability| **probability > SURE).count() as f64
                / count as f64,
            confidence: likeliest.iter().sum::<f64>() / count as f64,
        })
    }
}
