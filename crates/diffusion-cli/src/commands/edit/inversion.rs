//! The common part of edits that invert pictures to noise.

use candle_core::{DType, Tensor};
use diffusion_model::{LoadedModel, SamplingConfig};
use diffusion_sample::SamplerKind;
use diffusion_sample::edit::INVERSION_STEPS;

use crate::session::usage::checked_plan;

/// The sampling configuration of inversion and of the sampling after it: DDIM with η = 0.
pub(super) fn config(steps: Option<u64>, model: &LoadedModel) -> anyhow::Result<SamplingConfig> {
    let max_steps =
        model.objective.schedule().map_or(INVERSION_STEPS, diffusion_schedule::NoiseSchedule::len);
    let steps = steps.map_or(INVERSION_STEPS.min(max_steps), |steps| steps as usize);
    checked_plan(steps, SamplingConfig::new(model, SamplerKind::Ddim, steps))
}

/// The mean absolute difference between pictures and their reconstructions from the inverted noise.
#[derive(Default)]
pub(super) struct RoundTripError {
    sum: f64,
    count: usize,
}

impl RoundTripError {
    /// Compares `reconstructions` with `pictures`, both (N, C, H, W) in \[−1, 1\].
    pub(super) fn add(
        &mut self,
        pictures: &Tensor,
        reconstructions: &Tensor,
    ) -> anyhow::Result<()> {
        let difference = (pictures - reconstructions)?.abs()?.to_dtype(DType::F64)?.sum_all()?;
        self.sum += difference.to_scalar::<f64>()?;
        self.count += pictures.elem_count();
        Ok(())
    }

    /// One line for display.
    pub(super) fn describe(&self) -> String {
        let mean = self.sum / self.count as f64;
        format!(
            "reconstruction from the inverted noise: mean absolute error of {:.2} of 255 ({mean:.4} \
             in [−1, 1])",
            mean * 127.5
        )
    }
}
