//! DDPM on cases with known results, and the guarantees of the driver.

use std::cell::Cell;
use std::ops::{ControlFlow, Range};

use candle_core::{Device, Result, Tensor};
use diffusion_process::{
    Denoiser, Levels, NoiseLevel, Parametrisation, Prediction, Threshold, Thresholded,
};
use diffusion_sample::{Ddpm, Progress, SampleError, SampleRequest, VarianceType, sample};
use diffusion_schedule::{SamplingPlan, ScheduleConfig, SigmaSpacing, TimestepSpacing};

fn keep_going(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn plan(steps: usize) -> SamplingPlan {
    let schedule = ScheduleConfig::default().build().unwrap();
    SamplingPlan::new(&schedule, steps, TimestepSpacing::Trailing, SigmaSpacing::Timesteps).unwrap()
}

fn request(seed: u64, indices: Range<u64>) -> SampleRequest<'static> {
    SampleRequest { seed, indices: indices.collect(), image_shape: [1, 8, 8], device: &Device::Cpu }
}

/// The perfect model of data that is normal with mean `m` and standard deviation `s` in every
/// pixel: E[x₀ | x_t] = m + √ᾱ·s²/(ᾱ·s² + 1 − ᾱ)·(x_t − √ᾱ·m).
fn gaussian(m: f64, s: f64) -> impl Fn(&Tensor, NoiseLevel) -> Result<Prediction> {
    move |x_t, level| {
        let a = level.alpha_cumprod();
        let gain = a.sqrt() * s * s / (a * s * s + 1.0 - a);
        let x0 = x_t.affine(gain, m - gain * a.sqrt() * m)?;
        Prediction::from_x0(&x0, x_t, &Levels::new(&vec![level; x_t.dim(0)?], x_t)?)
    }
}

fn moments(x: &Tensor) -> (f64, f64) {
    let x: Vec<f64> =
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    (mean, (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt())
}

#[test]
fn a_perfect_model_of_gaussian_data_gives_that_gaussian() {
    for variance in [VarianceType::FixedSmall, VarianceType::FixedLarge] {
        let mut sampler = Ddpm { variance };
        let x = sample(
            &gaussian(0.3, 0.2),
            &mut sampler,
            &plan(1000),
            &request(1, 0..64),
            &mut keep_going,
        )
        .unwrap();
        // 4,096 pixels: standard errors 0.003 and 0.002. A thousand steps are close to the limit,
        // but do not reach it.
        let (mean, deviation) = moments(&x);
        assert!(
            (mean - 0.3).abs() < 0.015 && (deviation - 0.2).abs() < 0.012,
            "{variance:?}: {mean} {deviation}"
        );
    }
}

#[test]
fn clipping_keeps_the_image_in_range() {
    let bright = gaussian(4.0, 0.1);
    let clipped = Thresholded::new(&bright, Threshold::Clip { range: 1.0 });
    let run = |clip: bool| {
        let denoiser: &dyn Denoiser = if clip { &clipped } else { &bright };
        sample(denoiser, &mut Ddpm::default(), &plan(20), &request(1, 0..2), &mut keep_going)
            .unwrap()
    };
    assert!(run(true).max_all().unwrap().to_scalar::<f32>().unwrap() <= 1.0);
    assert!(run(false).min_all().unwrap().to_scalar::<f32>().unwrap() > 2.0);
}

#[test]
fn an_image_is_the_same_alone_and_in_any_batch() {
    let images = |indices| {
        let x = sample(
            &gaussian(0.0, 0.5),
            &mut Ddpm::default(),
            &plan(10),
            &request(5, indices),
            &mut keep_going,
        );
        x.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (all, alone) = (images(0..7), images(3..4));
    assert_eq!(all[3 * 64..4 * 64], alone);
    assert_ne!(all[..64], alone);
}

#[test]
fn progress_counts_every_step_and_can_cancel() {
    let reported = Cell::new(0);
    let mut stop_at_4 = |p: Progress<'_>| {
        assert_eq!((p.done, p.steps), (reported.get() + 1, 10));
        reported.set(p.done);
        if p.done == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let result = sample(
        &gaussian(0.0, 1.0),
        &mut Ddpm::default(),
        &plan(10),
        &request(0, 0..1),
        &mut stop_at_4,
    );
    assert!(matches!(result, Err(SampleError::Cancelled { done: 4, steps: 10 })));
    assert_eq!(reported.get(), 4);
}

#[test]
fn the_denoiser_receives_training_timesteps_from_noisy_to_clean() {
    let received = std::cell::RefCell::new(vec![]);
    let denoiser = |x_t: &Tensor, level: NoiseLevel| {
        received.borrow_mut().push(level.timestep as usize);
        let levels = Levels::new(&[level], x_t)?;
        Parametrisation::Epsilon.to_prediction(x_t, x_t, &levels)
    };
    sample(&denoiser, &mut Ddpm::default(), &plan(5), &request(0, 0..1), &mut keep_going).unwrap();
    assert_eq!(*received.borrow(), [999, 799, 599, 399, 199]);
}

#[test]
fn an_output_that_is_not_finite_is_an_error_with_its_step() {
    let denoiser = |x_t: &Tensor, level: NoiseLevel| {
        let value = if level.timestep < 500.0 { f64::NAN } else { 0.0 };
        let x0 = x_t.affine(0.0, value)?;
        Ok(Prediction { noise: x0.clone(), x0, variance: None })
    };
    let error =
        sample(&denoiser, &mut Ddpm::default(), &plan(5), &request(0, 0..1), &mut keep_going)
            .unwrap_err();
    assert!(
        matches!(error, SampleError::NotFinite { done: 4, steps: 5, timestep: 399.0 }),
        "{error}"
    );
}
