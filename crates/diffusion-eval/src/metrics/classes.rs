//! The classes that a classifier reads in images.

use candle_core::{D, Tensor};

/// What a classifier must give a class to be sure of it.
const SURE: f64 = 0.95;

/// What a classifier reads in a set of images.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassShares {
    /// The share of each class.
    pub shares: Vec<f64>,
    /// Images whose class has a probability above 0.95.
    pub sure: f64,
    /// The mean probability of the likeliest class.
    pub confidence: f64,
}

impl ClassShares {
    /// The share of the rarest class.
    pub fn smallest(&self) -> f64 {
        self.shares.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The share of images in which the class is read that they were to be, of those that were to be of some
    /// class; none where none was. `logits` are (N, classes), and `asked` has N entries.
    ///
    /// # Errors
    /// A tensor of another rank.
    pub fn as_asked(logits: &Tensor, asked: &[Option<u32>]) -> candle_core::Result<Option<f64>> {
        let read = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let pairs = read.into_iter().zip(asked).filter_map(|(read, asked)| Some((read, (*asked)?)));
        let [mut all, mut right] = [0usize; 2];
        for (read, asked) in pairs {
            all += 1;
            right += usize::from(read == asked);
        }
        Ok((all > 0).then(|| right as f64 / all as f64))
    }

    /// Of `logits` (N, classes), N at least 1.
    ///
    /// # Errors
    /// A tensor of another rank; no images.
    pub fn of(logits: &Tensor) -> candle_core::Result<Self> {
        let (count, classes) = logits.dims2()?;
        let probabilities = candle_nn::ops::softmax(logits, D::Minus1)?;
        let read = probabilities.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let mut counts = vec![0usize; classes];
        for class in read {
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
