//! What edits by way of a picture's noise have in common.

use candle_core::{DType, Tensor};
use diffusion_model::{LoadedModel, SamplingConfig};
use diffusion_sample::SamplerKind;
use diffusion_sample::edit::INVERSION_STEPS;

use crate::session::usage::planned;

/// How the way there and back is gone: DDIM without noise.
pub(super) fn config(steps: Option<u64>, model: &LoadedModel) -> anyhow::Result<SamplingConfig> {
    let most =
        model.objective.schedule().map_or(INVERSION_STEPS, diffusion_schedule::NoiseSchedule::len);
    let steps = steps.map_or(INVERSION_STEPS.min(most), |steps| steps as usize);
    planned(steps, SamplingConfig::new(model, SamplerKind::Ddim, steps))
}

/// How far pictures are from those that came back.
#[derive(Default)]
pub(super) struct RoundTripError {
    sum: f64,
    numbers: usize,
}

impl RoundTripError {
    /// Compares `back` with `pictures` (N, C, H, W) in [−1, 1].
    pub(super) fn add(&mut self, pictures: &Tensor, back: &Tensor) -> anyhow::Result<()> {
        let difference = (pictures - back)?.abs()?.to_dtype(DType::F64)?.sum_all()?;
        self.sum += difference.to_scalar::<f64>()?;
        self.numbers += pictures.elem_count();
        Ok(())
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let mean = self.sum / self.numbers as f64;
        format!(
            "to its noise and back a picture comes with a mean absolute error of {:.2} of 255 ({mean:.4} in [−1, 1])",
            mean * 127.5
        )
    }
}
