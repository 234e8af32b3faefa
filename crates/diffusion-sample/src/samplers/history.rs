//! The history of multistep methods.

use candle_core::Tensor;
use diffusion_process::NoiseLevel;

/// The predictions of the last steps with their levels, the latest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(Vec<(NoiseLevel, Tensor)>);

impl History {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds `prediction` at `level` and keeps only the latest `count`.
    pub(crate) fn push(&mut self, level: NoiseLevel, prediction: Tensor, count: usize) {
        self.0.insert(0, (level, prediction));
        self.0.truncate(count);
    }

    pub(crate) fn all(&self) -> &[(NoiseLevel, Tensor)] {
        &self.0
    }

    /// The latest predictions between which λ increases by finite amounts. A polynomial in λ can be
    /// fitted through those only.
    pub(crate) fn usable(&self) -> &[(NoiseLevel, Tensor)] {
        let apart = self.0.windows(2).take_while(|pair| {
            let distance = pair[0].0.lambda() - pair[1].0.lambda();
            distance.is_finite() && distance > 0.0
        });
        &self.0[..self.0.len().min(1 + apart.count())]
    }
}
