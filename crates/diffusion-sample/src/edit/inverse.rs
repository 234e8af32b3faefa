//! Inversion of pictures to noise, and sampling from that noise (Song et al. 2021, section 5.3;
//! Dhariwal & Nichol 2021, appendix F).

use std::ops::ControlFlow;

use candle_core::{DType, Device, Result, Tensor};
use diffusion_process::{Denoiser, Domain, per_image};
use diffusion_schedule::{PlanStep, SamplingPlan};

use super::{EditError, for_each_image, noised};
use crate::arithmetic::{combination, transfer};
use crate::driver::is_finite;
use crate::{Ddim, Progress, SampleError, SampleRequest, sample_from};

/// Inverts `images` to the noise (N, C, H, W) at the start of `plan` from which [`from_noise`]
/// reproduces them: the steps of [`Ddim`] with η = 0, backwards.
///
/// A forward step uses the model's prediction at the noisier image, which a backward step does not
/// know. It is found by `iterations` of a fixed-point iteration that starts from the image rescaled
/// to the noisier level. With 1 iteration, the model predicts once there. This is about as accurate
/// as the usual approximation, which predicts at the cleaner level (Dhariwal & Nichol 2021,
/// appendix F). Where there is more noise than signal, the iteration holds x̂₀ constant, elsewhere
/// ε̂. Each depends less on x there, and x̂₀ also works for levels without signal.
///
/// `progress` is called with the number of completed steps.
///
/// # Errors
/// If `progress` stops the run, or if the noise is not finite. Also an error of the denoiser or the
/// device.
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

/// The image at `step.from` that [`Ddim`] takes to `x` at `step.to`.
fn step_back(
    x: &Tensor,
    step: &PlanStep,
    denoiser: &dyn Denoiser,
    iterations: usize,
) -> Result<Tensor> {
    let PlanStep { from, to, .. } = step;
    // Nearly the same image at the scale of the other level, if the levels are close.
    let mut noisier = x.affine(to.to_variance_preserving() / from.to_variance_preserving(), 0.0)?;
    // For data of variance v, x̂₀ converges faster where the product of both σ is above v, and ε̂
    // below.
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

/// Adds a little noise to `pictures` before inversion. `pictures` is (N, C, H, W), or (1, C, H, W)
/// for all images of `request`. The noise level is the one from which `plan` has `steps` steps to
/// go. Returns the noisy pictures and the part of the plan up to that level. Give both to
/// [`to_noise`] if the noise is to become a different image. With 0 steps, pictures and plan are
/// returned unchanged.
///
/// Where a model is certain of a pixel, as in the background of digits, every noise leads to that
/// pixel value. Inversion then finds the noise closest to zero. That is too little for any other
/// picture, so sampling from it returns the original. With some noise on the picture, inversion has
/// a unique solution of the right magnitude. The price: sampling has to guess what the noise
/// covered.
///
/// # Errors
/// If the pictures have the wrong shape, or if `steps` is not below the number of steps of the
/// plan. Also an error of the device.
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

/// Samples images (N, C, H, W) along `plan` from `noise` at its start, with [`Ddim`] and η = 0.
///
/// # Errors
/// If `progress` stops the run, or if a result is not finite. Also an error of the denoiser or the
/// device.
pub fn from_noise(
    noise: &Tensor,
    denoiser: &dyn Denoiser,
    plan: &SamplingPlan,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> std::result::Result<Tensor, EditError> {
    let no_noise =
        |_: usize| -> Result<Tensor> { candle_core::bail!("a deterministic step requested noise") };
    Ok(sample_from(noise.clone(), denoiser, &mut Ddim::default(), plan, &no_noise, progress)?)
}

/// Samples images between two noises: one image (1, C, H, W) for each of `shares`. Share 0 is the
/// image of the noise `ends[0]` (1, C, H, W), share 1 that of `ends[1]`. Uses [`slerp`] and
/// [`from_noise`] (Song et al. 2021, section 5.3). To interpolate between pictures, pass the noises
/// that [`to_noise`] finds; between seeds, those of
/// [`SampleRequest::initial`](crate::SampleRequest::initial).
///
/// # Errors
/// If the ends are not one image each, of the same shape, if `shares` is empty, or if a share is
/// outside [0, 1]. If `progress` stops the run, or if a result is not finite. Also an error of the
/// denoiser or the device.
pub fn interpolate(
    ends: [&Tensor; 2],
    shares: &[f64],
    denoiser: &dyn Denoiser,
    plan: &SamplingPlan,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> std::result::Result<Tensor, EditError> {
    let [from, to] = ends;
    if from.dims().first() != Some(&1) || from.dims() != to.dims() {
        let expected = format!("[1, C, H, W] for both (the first has {:?})", from.dims());
        return Err(EditError::Shape { what: "the ends", found: to.dims().to_vec(), expected });
    }
    let starts = shares.iter().map(|share| slerp(from, to, *share)).collect::<Result<Vec<_>>>()?;
    from_noise(&Tensor::cat(&starts, 0)?, denoiser, plan, progress)
}

/// Inverts `pictures` (N, C, H, W) with the denoiser `from`, then samples from that noise with the
/// denoiser `to` (Su et al. 2022, with two classes instead of two models). What the class
/// determines changes; what the noise determines stays, for example the slant and stroke width of a
/// digit. `progress` is called with the number of completed steps, out of twice the steps of the
/// plan.
///
/// Pictures with pixels that the model is certain of change too little. For those, use
/// [`with_grain`], [`to_noise`] and [`from_noise`].
///
/// # Errors
/// If `progress` stops the run, or if a result is not finite. Also an error of the denoisers or the
/// device.
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

/// Spherical interpolation between `from` and `to` (N, C, H, W), image by image, at `share` in \[0,
/// 1\] of the arc. The directions are weighted by sin((1 − s)θ)/sin θ and sin(sθ)/sin θ (Shoemake
/// 1985); the length is interpolated linearly. Shares 0 and 1 return the ends bit for bit. If the
/// directions are almost equal or opposite, the interpolation is linear.
///
/// Angles and lengths are computed in f64.
///
/// # Errors
/// If the shapes differ, or if `share` is outside [0, 1].
pub fn slerp(from: &Tensor, to: &Tensor, share: f64) -> Result<Tensor> {
    if from.dims() != to.dims() {
        candle_core::bail!(
            "both ends must have the same shape, got {:?} and {:?}",
            from.dims(),
            to.dims()
        );
    }
    if !(0.0..=1.0).contains(&share) {
        candle_core::bail!("the share must be between 0 and 1, got {share}");
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
        (0..n).map(|i| slerp_weights(ff[i].sqrt(), tt[i].sqrt(), ft[i], share)).collect();
    let column = |k: usize| per_image(weights.iter().map(|pair| pair[k]), from);
    from.broadcast_mul(&column(0)?)? + to.broadcast_mul(&column(1)?)?
}

/// Sines below this are lost in rounding.
const MIN_SINE: f64 = 1e-6;

/// The weights of two vectors with lengths `a` and `b` and inner product `dot`.
fn slerp_weights(a: f64, b: f64, dot: f64, share: f64) -> [f64; 2] {
    let angle = (dot / (a * b)).clamp(-1.0, 1.0).acos();
    let sine = angle.sin();
    // A vector of length 0 has no direction.
    if sine.is_nan() || sine <= MIN_SINE {
        return [1.0 - share, share];
    }
    let length = (1.0 - share) * a + share * b;
    [((1.0 - share) * angle).sin() / sine * length / a, (share * angle).sin() / sine * length / b]
}
