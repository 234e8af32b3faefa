//! Inpainting (Lugmayr et al. 2022).

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};
use diffusion_process::{Denoiser, Domain};
use diffusion_schedule::{NoiseLevel, PlanStep, SamplingPlan};

use super::{EditError, for_each_image, noised};
use crate::arithmetic::combination;
use crate::driver::{is_finite, single_step};
use crate::{Progress, SampleError, SampleRequest, Sampler};

/// The pictures and the mask of [`inpaint`].
#[derive(Clone, Copy, Debug)]
pub struct Inpainting<'a> {
    /// The pictures (N, C, H, W), or (1, C, H, W) for all images.
    pub pictures: &'a Tensor,
    /// The mask: 1 = repaint, 0 = keep. It has the shape of the pictures; each of N, C, H and W may
    /// also be 1.
    pub mask: &'a Tensor,
    /// How often each step except the last is taken, at least 1. Before a step is repeated, noise
    /// brings x back to the level at which the step began; the repetition harmonises the new part
    /// with the known region. 1 is the fastest and leaves seams.
    pub resamples: usize,
}

impl Inpainting<'_> {
    /// The total number of steps that [`inpaint`] takes along `plan`, including repetitions.
    pub fn steps(&self, plan: &SamplingPlan) -> usize {
        (plan.steps().len() - 1) * self.resamples + 1
    }
}

/// RePaint (Lugmayr et al. 2022, algorithm 1, with jumps of one step). After each step, the known
/// region is replaced by the pictures with new noise at the level reached. In the result
/// (N, C, H, W) the known region equals the pictures exactly.
///
/// Each step is taken alone, with a cleared sampler. The history of a multistep sampler belongs to
/// one trajectory. Here the known region and the added noise move x off its trajectory after every
/// step. A slope through earlier predictions would mix different images, and a corrector would undo
/// both changes. Multistep methods (DPM-Solver++, UniPC, LMS, PNDM) therefore always take the step
/// that they would begin with.
///
/// Image i depends only on the seed and its index. `progress` is called after each step, including
/// repetitions, [`Inpainting::steps`] times in total.
///
/// # Errors
/// If `resamples` is 0, if the mask has values other than 0 and 1, or if the pictures or the mask
/// have the wrong shape. If `progress` stops the run, or if a result is not finite. Also an error
/// of the denoiser or the device.
pub fn inpaint(
    inpainting: &Inpainting<'_>,
    denoiser: &dyn Denoiser,
    sampler: &mut dyn Sampler,
    plan: &SamplingPlan,
    request: &SampleRequest<'_>,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Tensor, EditError> {
    if inpainting.resamples == 0 {
        return Err(EditError::Resamples);
    }
    let pictures = for_each_image(inpainting.pictures, request)?;
    let repaint = mask_condition(inpainting.mask, &pictures)?;
    let known_region = |level: NoiseLevel, draw: u64| -> candle_core::Result<Tensor> {
        noised(&pictures, &request.normal(Domain::Known, draw)?, &level)
    };
    let (count, steps) = (plan.steps().len(), inpainting.steps(plan));
    let mut x = repaint
        .where_cond(&request.initial(plan)?, &known_region(plan.start(), draw_number(count, 0))?)?;
    let mut done = 0;
    for (number, step) in plan.steps().iter().enumerate() {
        let left = count - 1 - number;
        // Repeating the last step has no benefit, because no step follows it.
        let passes = if left == 0 { 1 } else { inpainting.resamples };
        for pass in 0..passes {
            if pass > 0 {
                x = renoise(
                    &x,
                    step,
                    &request.normal(Domain::Resampling, draw_number(left, pass))?,
                )?;
            }
            // In the first pass, the noise of a step is that of `sample`.
            let noise = |_: usize| request.normal(Domain::Sampler, draw_number(left, pass));
            let (generated, x0) = single_step(number, &x, denoiser, sampler, plan, &noise)?;
            x = repaint.where_cond(&generated, &known_region(step.to, draw_number(left, pass))?)?;
            done += 1;
            if !is_finite(&x)? {
                return Err(
                    SampleError::NotFinite { done, steps, timestep: step.from.timestep }.into()
                );
            }
            let state = Progress { done, steps, level: step.to, x: &x, x0: &x0 };
            if progress(state).is_break() && done < steps {
                return Err(SampleError::Cancelled { done, steps }.into());
            }
        }
    }
    Ok(repaint.where_cond(&x, &pictures)?)
}

/// The number of a draw of noise: for the step that `left` steps follow, in pass `pass` (from 0).
fn draw_number(left: usize, pass: usize) -> u64 {
    left as u64 | (pass as u64) << 32
}

/// Brings x from the end of `step` back to its beginning by adding `noise`. This is a step of the
/// forward process (algorithm 1, line 9), on any path.
fn renoise(x: &Tensor, step: &PlanStep, noise: &Tensor) -> candle_core::Result<Tensor> {
    let ratio = step.from.signal / step.to.signal;
    let present = ratio * step.to.noise;
    let added = (step.from.noise * step.from.noise - present * present).max(0.0).sqrt();
    combination(&[(ratio, x), (added, noise)])
}

/// The mask as a condition for every pixel of `pictures`: true = repaint.
fn mask_condition(mask: &Tensor, pictures: &Tensor) -> Result<Tensor, EditError> {
    let fits =
        mask.rank() == 4 && mask.dims().iter().zip(pictures.dims()).all(|(m, p)| *m == 1 || m == p);
    if !fits {
        let expected = format!("{:?}, or 1 in place of any of these", pictures.dims());
        return Err(EditError::Shape { what: "the mask", found: mask.dims().to_vec(), expected });
    }
    let values = mask.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    if let Some(value) = values.into_iter().find(|value| *value != 0.0 && *value != 1.0) {
        return Err(EditError::Mask(value));
    }
    Ok(mask.ne(0f64)?.broadcast_as(pictures.shape())?.contiguous()?)
}
