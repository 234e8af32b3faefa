//! Variations of a picture (Meng et al. 2022).

use std::ops::ControlFlow;

use candle_core::Tensor;
use diffusion_process::{Denoiser, Domain};
use diffusion_schedule::SamplingPlan;

use super::{EditError, for_each_image, noised};
use crate::{Progress, SampleRequest, Sampler, sample_from};

/// How many of the steps of `plan` a strength in (0, 1] is: its share, to the nearest whole number, and at least one.
///
/// # Errors
/// A strength outside (0, 1].
pub fn steps_at(strength: f64, plan: &SamplingPlan) -> Result<usize, EditError> {
    if !(strength > 0.0 && strength <= 1.0) {
        return Err(EditError::Strength(strength));
    }
    Ok(((strength * plan.steps().len() as f64).round() as usize).max(1))
}

/// SDEdit (Meng et al. 2022, algorithm 1): `pictures`, (N, C, H, W) or (1, C, H, W) for all images of `request`, with the noise from which
/// `plan` has a share `strength` of its steps to go, and from there sampled to the end. The larger the strength, the less of a picture is
/// left; if it is all steps, nothing is, and the images are those of [`sample`](crate::sample), bit for bit.
///
/// The noise of image i is that from which `sample` would begin, whatever the strength. Samplers of several steps' memory begin without
/// any, as they do in `sample`. `progress` counts the steps that are run.
///
/// # Errors
/// A strength outside (0, 1]; pictures of another shape; as `sample`.
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
