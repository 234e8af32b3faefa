//! From a picture to the noise it comes from, and another way back (Song et al. 2021, section 5.3; Dhariwal & Nichol 2021, appendix F).

use std::ops::ControlFlow;

use candle_core::{DType, Device, Result, Tensor};
use diffusion_process::{Denoiser, Domain, per_image};
use diffusion_schedule::{PlanStep, SamplingPlan};

use super::{EditError, for_each_image, noised};
use crate::arithmetic::{combination, transfer};
use crate::driver::is_finite;
use crate::{Ddim, Progress, SampleError, SampleRequest, sample_from};

/// The noise (N, C, H, W) at the start of `plan` from which [`from_noise`] makes `images`: the steps of [`Ddim`] with η = 0 backwards.
///
/// A step forward depends on the model's prediction at the noisier image, which a step backward looks for. The point is found by
/// `iterations` of a fixed-point iteration, from the image rescaled to the noisier level. With 1 the model is asked once there, about
/// as good as the usual approximation, which asks at the cleaner level (Dhariwal & Nichol 2021, appendix F). Where there is more noise
/// than signal the iteration holds x̂₀, elsewhere ε̂: each depends less on x there, and x̂₀ leads to levels without signal, too.
///
/// `progress` is called with the number of steps done.
///
/// # Errors
/// Cancelling; noise that is not finite; those of the denoiser and the device.
pub fn to_noise(
    images: &Tensor,
    denoiser: &dyn Denoiser,
    plan: &SamplingPlan,
    iterations: usize,
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> std::result::Result<Tensor, EditError> {
    let steps = plan.steps().len();
    let mut x = images.clone();
    for (done, step) in (1..).zip(plan.steps().iter().rev()) {
        x = step_back(&x, step, denoiser, iterations)?;
        if progress(done).is_break() {
            return Err(SampleError::Cancelled { done, steps }.into());
        }
    }
    if !is_finite(&x)? {
        return Err(
            SampleError::NotFinite { done: steps, steps, timestep: plan.start().timestep }.into()
        );
    }
    Ok(x)
}

/// The image at `step.from` that [`Ddim`] brings to `x` at `step.to`.
fn step_back(
    x: &Tensor,
    step: &PlanStep,
    denoiser: &dyn Denoiser,
    iterations: usize,
) -> Result<Tensor> {
    let PlanStep { from, to, .. } = step;
    // Nearly the same image at the scale of the other level, if the levels are near each other.
    let mut noisier = x.affine(to.to_variance_preserving() / from.to_variance_preserving(), 0.0)?;
    // Of data of variance v, x̂₀ converges faster where the product of both σ is above v, and ε̂ below.
    let hold_x0 = from.sigma() * to.sigma() > 1.0;
    for _ in 0..iterations {
        let prediction = denoiser.denoise(&noisier, *from)?;
        noisier = if hold_x0 {
            let ratio = from.noise / to.noise;
            combination(&[(ratio, x), (from.signal - to.signal * ratio, &prediction.x0)])?
        } else {
            transfer(x, &prediction.noise, to, from)?
        };
    }
    Ok(noisier)
}

/// `pictures`, (N, C, H, W) or (1, C, H, W) for all images of `request`, with the little noise at which `plan` has `steps` steps to go, and
/// the plan up to there: what to give [`to_noise`] in place of pictures and plan, if the noise is to become something else. With 0 steps,
/// pictures and plan as they are.
///
/// Where a model knows a pixel for certain, the background of digits say, every noise leads to it, and inversion finds the one nearest to
/// none: too little for any other picture, so that what is drawn from it stays what it was. A little noise on the picture is a question
/// that has one answer, and leads to noise of the right size; the price is that the way back has to guess what it covered.
///
/// # Errors
/// Pictures of another shape; as many steps as the plan has; those of the device.
pub fn with_grain(
    pictures: &Tensor,
    steps: usize,
    plan: &SamplingPlan,
    request: &SampleRequest<'_>,
) -> std::result::Result<(Tensor, SamplingPlan), EditError> {
    let pictures = for_each_image(pictures, request)?;
    if steps == 0 {
        return Ok((pictures, plan.clone()));
    }
    let count = plan.steps().len();
    let front = plan.first(count.saturating_sub(steps)).map_err(candle_core::Error::wrap)?;
    let level = plan.steps()[count - steps].from;
    let noise = request.normal(Domain::Known, steps as u64)?;
    Ok((noised(&pictures, &noise, &level)?, front))
}

/// The images (N, C, H, W) that [`Ddim`] with η = 0 makes along `plan` of `noise` at its start.
///
/// # Errors
/// As [`sample`](crate::sample).
pub fn from_noise(
    noise: &Tensor,
    denoiser: &dyn Denoiser,
    plan: &SamplingPlan,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> std::result::Result<Tensor, EditError> {
    let none =
        |_: usize| -> Result<Tensor> { candle_core::bail!("a step without noise asked for some") };
    Ok(sample_from(noise.clone(), denoiser, &mut Ddim::default(), plan, &none, progress)?)
}

/// The images between two: one (1, C, H, W) for each of `shares`, 0 being that of the noise `ends[0]` (1, C, H, W), 1 that of `ends[1]`,
/// by [`slerp`] and [`from_noise`] (Song et al. 2021, section 5.3). Between pictures, the ends are the noise that [`to_noise`] finds;
/// between seeds, [`SampleRequest::initial`](crate::SampleRequest::initial).
///
/// # Errors
/// Ends that are not one image each, of one shape; no shares; as [`from_noise`].
pub fn interpolate(
    ends: [&Tensor; 2],
    shares: &[f64],
    denoiser: &dyn Denoiser,
    plan: &SamplingPlan,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> std::result::Result<Tensor, EditError> {
    let [from, to] = ends;
    if from.dims().first() != Some(&1) || from.dims() != to.dims() {
        let expected = format!("of one image, as the other end's {:?}", from.dims());
        return Err(EditError::Shape { what: "an end", found: to.dims().to_vec(), expected });
    }
    let between = shares.iter().map(|share| slerp(from, to, *share)).collect::<Result<Vec<_>>>()?;
    from_noise(&Tensor::cat(&between, 0)?, denoiser, plan, progress)
}

/// `pictures` (N, C, H, W), taken for what the denoiser `from` knows and drawn as what `to` knows: the noise that they come from as the
/// one becomes images as the other (Su et al. 2022, with two classes in place of two models). What the class decides changes; what
/// the noise decides, slant and stroke width of a digit say, stays. `progress` is told how many of twice the plan's steps are done.
///
/// Pictures with pixels that are certain change too little; for those [`with_grain`], [`to_noise`] and [`from_noise`] are the way.
///
/// # Errors
/// As [`to_noise`] and [`from_noise`].
pub fn reclass(
    pictures: &Tensor,
    [from, to]: [&dyn Denoiser; 2],
    plan: &SamplingPlan,
    iterations: usize,
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> std::result::Result<Tensor, EditError> {
    let noise = to_noise(pictures, from, plan, iterations, progress)?;
    from_noise(&noise, to, plan, &mut |p| progress(plan.steps().len() + p.done))
}

/// The point a share `share` in [0, 1] of the way from `from` to `to` (N, C, H, W), along the great circle on which both lie, image by
/// image: sin((1 − s)θ)/sin θ of one direction and sin(sθ)/sin θ of the other (Shoemake 1985), at a length that goes evenly from the one's
/// to the other's. Shares of 0 and 1 give the ends, bit for bit. Directions that are all but the same or opposite have no such circle, and
/// the way is straight.
///
/// Angles and lengths are computed in f64.
///
/// # Errors
/// Different shapes; a share outside [0, 1].
pub fn slerp(from: &Tensor, to: &Tensor, share: f64) -> Result<Tensor> {
    if from.dims() != to.dims() {
        candle_core::bail!("both ends need one shape, got {:?} and {:?}", from.dims(), to.dims());
    }
    if !(0.0..=1.0).contains(&share) {
        candle_core::bail!("the share of the way must lie in [0, 1], got {share}");
    }
    if share == 0.0 {
        return Ok(from.clone());
    }
    if share == 1.0 {
        return Ok(to.clone());
    }
    let n = from.dim(0)?;
    let dot = |a: &Tensor, b: &Tensor| -> Result<Vec<f64>> {
        let rows = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.reshape((n, ()));
        (rows(a)? * rows(b)?)?.sum(1)?.to_vec1()
    };
    let (ff, tt, ft) = (dot(from, from)?, dot(to, to)?, dot(from, to)?);
    let weights: Vec<[f64; 2]> =
        (0..n).map(|i| on_circle(ff[i].sqrt(), tt[i].sqrt(), ft[i], share)).collect();
    let column = |of: usize| per_image(weights.iter().map(|pair| pair[of]), from);
    from.broadcast_mul(&column(0)?)? + to.broadcast_mul(&column(1)?)?
}

/// Sines of angles below this are lost in rounding.
const LEAST_SINE: f64 = 1e-6;

/// The weights of two vectors of the lengths `a` and `b` and the inner product `dot`.
fn on_circle(a: f64, b: f64, dot: f64, share: f64) -> [f64; 2] {
    let angle = (dot / (a * b)).clamp(-1.0, 1.0).acos();
    let sine = angle.sin();
    // A vector of length 0 has no direction.
    if sine.is_nan() || sine <= LEAST_SINE {
        return [1.0 - share, share];
    }
    let length = (1.0 - share) * a + share * b;
    [((1.0 - share) * angle).sin() / sine * length / a, (share * angle).sin() / sine * length / b]
}
