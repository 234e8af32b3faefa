//! Filling in a part of a picture (Lugmayr et al. 2022).

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};
use diffusion_process::{Denoiser, Domain};
use diffusion_schedule::{NoiseLevel, PlanStep, SamplingPlan};

use super::{EditError, for_each_image, noised};
use crate::arithmetic::combination;
use crate::driver::{is_finite, lone_step};
use crate::{Progress, SampleError, SampleRequest, Sampler};

/// What is to be filled in.
#[derive(Clone, Copy, Debug)]
pub struct Inpainting<'a> {
    /// The pictures, (N, C, H, W) or (1, C, H, W) for all images.
    pub pictures: &'a Tensor,
    /// 1 where something is to be made, 0 where the picture is known: of the pictures' shape, or with 1 in place of any of N, C, H
    /// and W.
    pub mask: &'a Tensor,
    /// How often each step but the last is taken, at least 1. Between two times noise leads back to where the step began, and what was
    /// made and what is known grow together; 1 is the fastest, and leaves seams.
    pub resamples: usize,
}

impl Inpainting<'_> {
    /// Steps that [`inpaint`] takes in all along `plan`, the repeated ones included.
    pub fn steps(&self, plan: &SamplingPlan) -> usize {
        (plan.steps().len() - 1) * self.resamples + 1
    }
}

/// RePaint (Lugmayr et al. 2022, algorithm 1, with jumps of one step): after each step the known part is replaced by that of the pictures
/// with fresh noise of the level that was reached. In the images (N, C, H, W) it has the very numbers of the pictures.
///
/// Each step is taken by itself, by a sampler that remembers nothing. What a sampler of several steps remembers is the past of one
/// trajectory; here x leaves its trajectory after every step, by the known part and by the noise that leads back, so that a slope
/// through earlier estimates would be one between different images, and a corrector would undo both. So the methods of several steps
/// (DPM-Solver++, UniPC, LMS, PNDM) take the step here that they would begin with.
///
/// Image i depends on the seed and its index only. `progress` is called after each step, the repeated ones included, of which there
/// are [`Inpainting::steps`].
///
/// # Errors
/// No resamples; a mask of numbers other than 0 and 1; pictures or a mask of another shape; as [`sample`](crate::sample).
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
    let wanted = hidden(inpainting.mask, &pictures)?;
    let known = |level: NoiseLevel, draw: u64| -> candle_core::Result<Tensor> {
        noised(&pictures, &request.normal(Domain::Known, draw)?, &level)
    };
    let (count, steps) = (plan.steps().len(), inpainting.steps(plan));
    let mut x =
        wanted.where_cond(&request.initial(plan)?, &known(plan.start(), draw(count, 0))?)?;
    let mut done = 0;
    for (number, step) in plan.steps().iter().enumerate() {
        let left = count - 1 - number;
        // Nothing that comes after the last step could profit from taking it again.
        let passes = if left == 0 { 1 } else { inpainting.resamples };
        for pass in 0..passes {
            if pass > 0 {
                x = back(&x, step, &request.normal(Domain::Resampling, draw(left, pass))?)?;
            }
            // The first time, the noise of a step is that of `sample`.
            let noise = |_: usize| request.normal(Domain::Sampler, draw(left, pass));
            let (made, x0) = lone_step(number, &x, denoiser, sampler, plan, &noise)?;
            x = wanted.where_cond(&made, &known(step.to, draw(left, pass))?)?;
            done += 1;
            if !is_finite(&x)? {
                return Err(
                    SampleError::NotFinite { done, steps, timestep: step.from.timestep }.into()
                );
            }
            let seen = Progress { done, steps, level: step.to, x: &x, x0: &x0 };
            if progress(seen).is_break() && done < steps {
                return Err(SampleError::Cancelled { done, steps }.into());
            }
        }
    }
    Ok(wanted.where_cond(&x, &pictures)?)
}

/// The number of a draw: of a step that has `left` steps after it, taken for the time `pass`, counted from 0.
fn draw(left: usize, pass: usize) -> u64 {
    left as u64 | (pass as u64) << 32
}

/// x at the end of `step` brought back to its beginning by `noise`: the step forward of the process itself (algorithm 1, line 9), on any
/// path.
fn back(x: &Tensor, step: &PlanStep, noise: &Tensor) -> candle_core::Result<Tensor> {
    let kept = step.from.signal / step.to.signal;
    let already = kept * step.to.noise;
    let added = (step.from.noise * step.from.noise - already * already).max(0.0).sqrt();
    combination(&[(kept, x), (added, noise)])
}

/// The mask as a condition for every pixel of `pictures`.
fn hidden(mask: &Tensor, pictures: &Tensor) -> Result<Tensor, EditError> {
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
