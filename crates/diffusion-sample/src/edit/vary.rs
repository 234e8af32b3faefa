//! Variations of a picture (Meng et al. 2022).

use std::ops::ControlFlow;

use candle_core::Tensor;
use diffusion_process::{Denoiser, Domain};
use diffusion_schedule::SamplingPlan;

use super::{EditError, for_each_image, noised};
use crate::{Progress, SampleRequest, Sampler, sample_from};

/// The number of steps of `plan` that a strength in (0, 1] stands for: that share of the steps,
/// rounded, at least 1.
///
/// # Errors
/// If `strength` is outside (0, 1].
pub fn steps_at(strength: f64, plan: &SamplingPlan) -> Result<usize, EditError> {
    if !(strength > 0.0 && strength <= 1.0) {
        return Err(EditError::Strength(strength));
    }
    Ok(((strength * plan.steps().len() as f64).round() as usize).max(1))
}

/// SDEdit (Meng et al. 2022, algorithm 1). `pictures` is (N, C, H, W), or (1, C, H, W) for all
/// images of `request`. Noise is added to the level from which `plan` has a share `strength` of its
/// steps to go, and the rest of the plan is sampled. A larger strength preserves less of the
/// picture. If the strength covers all steps, nothing is preserved, and the images equal those of
/// [`sample`](crate::sample) bit for bit.
///
/// Image i uses the initial noise of `sample`, whatever the strength. Multistep samplers begin
/// without history, as in `sample`. `progress` counts the steps that are taken.
///
/// # Errors
/// If `strength` is outside (0, 1], or if the pictures have the wrong shape. If `progress` stops
/// the run, or if a result is not finite. Also an error of the denoiser or the device.
pub fn vary(
    pictures: &Tensor,
    strength: f64,
    denoiser: &dyn Denoiser,
    sampler: &mut dyn Sampler,
    plan: &SamplingPlan,
    request: &SampleRequest<'_>,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Tensor, EditError> {
    let pictures = for_each_image(pictures, request)?;
    let steps = steps_at(strength, plan)?;
    let x = if steps == plan.steps().len() {
        request.initial(plan)?
    } else {
        let level = plan.steps()[plan.steps().len() - steps].from;
        let noise = request.normal(Domain::Initial, 0)?;
        noised(&pictures, &noise, &level)?
    };
    let rest = plan.last(steps).map_err(candle_core::Error::wrap)?;
    Ok(sample_from(x, denoiser, sampler, &rest, &request.step_noise(&rest), progress)?)
}
