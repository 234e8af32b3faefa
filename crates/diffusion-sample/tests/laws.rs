//! Properties of all samplers: their order on an equation with an exact solution, finite results
//! under any schedule and any number of steps, and inversion with DDIM.

#[path = "../examples/orders/law.rs"]
mod law;

use std::ops::ControlFlow;

use candle_core::{DType, Device, Result, Tensor};
use diffusion_process::{Denoiser, NoiseLevel, NoiseSource, Prediction, Threshold, Thresholded};
use diffusion_sample::edit::to_noise;
use diffusion_sample::{
    Churn, Ddim, Progress, SampleRequest, SamplerKind, SamplerOptions, sample, sample_from,
};
use diffusion_schedule::{
    BetaSchedule, SamplingPlan, ScheduleConfig, SigmaSpacing, TimestepSpacing,
};
use law::{cases, gaussian, slope};

fn keep_going(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn every_deterministic_sampler_has_its_theoretical_order() {
    const STEPS: [usize; 2] = [40, 160];
    for case in cases() {
        let (found, theory) = (slope(&STEPS, &case.errors(&STEPS)), case.theory);
        println!("{}: order {found:.2}, expected {theory}", case.name);
        assert!((found - theory).abs() < 0.2, "{}: order {found:.2}, expected {theory}", case.name);
    }
}

#[test]
fn results_are_finite_under_any_schedule_sampler_spacing_and_number_of_steps() {
    let schedules = [
        (BetaSchedule::Linear, false),
        (BetaSchedule::ScaledLinear, false),
        (BetaSchedule::Cosine, false),
        (BetaSchedule::Sigmoid, false),
        (BetaSchedule::Linear, true),
        (BetaSchedule::Cosine, true),
    ];
    let options = SamplerOptions {
        eta: 1.0,
        churn: Churn { amount: 2.0, ..Churn::default() },
        ..Default::default()
    };
    let request = SampleRequest {
        seed: 3,
        indices: vec![0, 1],
        image_shape: [1, 4, 4],
        device: &Device::Cpu,
    };
    for (beta_schedule, rescale_betas_zero_snr) in schedules {
        let config = ScheduleConfig { beta_schedule, rescale_betas_zero_snr, ..Default::default() };
        let schedule = config.build().unwrap();
        for kind in SamplerKind::ALL {
            for steps in [1, 2, 3, 4, 5, 10, 31, 103] {
                for spacing in
                    [TimestepSpacing::Leading, TimestepSpacing::Linspace, TimestepSpacing::Trailing]
                {
                    for sigmas in
                        [SigmaSpacing::Timesteps, SigmaSpacing::Karras, SigmaSpacing::Exponential]
                    {
                        let plan = if kind.follows_flow() {
                            SamplingPlan::flow(steps, 1000.0).unwrap()
                        } else {
                            SamplingPlan::new(&schedule, steps, spacing, sigmas).unwrap()
                        };
                        let case = || {
                            format!("{kind:?}, {config:?}, {steps} steps, {spacing:?}, {sigmas:?}")
                        };
                        for options in [&SamplerOptions::default(), &options] {
                            let run = |denoiser: &dyn Denoiser| {
                                let x = sample(
                                    denoiser,
                                    &mut *kind.build(options),
                                    &plan,
                                    &request,
                                    &mut keep_going,
                                );
                                // `sample` returns an error if a result is not finite.
                                let x = x.unwrap_or_else(|e| panic!("{}: {e}", case()));
                                x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
                            };
                            run(&gaussian);
                            // Formulas that extrapolate to the last step are inaccurate with a few
                            // steps. The others stay within the clipping range.
                            let extrapolates =
                                matches!(kind, SamplerKind::Pndm | SamplerKind::Lms) && steps < 10;
                            let largest =
                                run(&Thresholded::new(&gaussian, Threshold::Clip { range: 1.0 }));
                            assert!(largest < 3.0 || extrapolates, "{}: {largest}", case());
                        }
                    }
                }
            }
        }
    }
}

/// The perfect model of pixels that are normal around one of two values, ±0.6. It is not linear, so
/// the trajectories are curved.
fn bimodal(x: &Tensor, level: NoiseLevel) -> Result<Prediction> {
    const CENTRE: f64 = 0.6;
    const WIDTH: f64 = 0.3;
    let NoiseLevel { signal, noise, .. } = level;
    let total = signal * signal * WIDTH * WIDTH + noise * noise;
    let gain = signal * WIDTH * WIDTH / total;
    let side = x.affine(signal * CENTRE / total, 0.0)?.tanh()?;
    let x0 = (x.affine(gain, 0.0)? + side.affine(CENTRE * (1.0 - gain * signal), 0.0)?)?;
    // (x − signal·x̂₀)/noise, without the difference of nearly equal numbers.
    let noise =
        (x.affine(noise / total, 0.0)? - side.affine(CENTRE * signal * noise / total, 0.0)?)?;
    Ok(Prediction { x0, noise, variance: None })
}

#[test]
fn an_inverted_image_is_reproduced_from_its_noise() {
    let schedule = ScheduleConfig::default().build().unwrap();
    let plan = SamplingPlan::new(&schedule, 50, TimestepSpacing::Trailing, SigmaSpacing::Timesteps)
        .unwrap();
    let images = NoiseSource::new(1).normal(
        diffusion_process::Domain::Initial,
        0,
        0..2,
        &[1, 8, 8],
        &Device::Cpu,
    );
    let images = images.unwrap().tanh().unwrap().to_dtype(DType::F64).unwrap();
    let noise =
        |_: usize| -> Result<Tensor> { candle_core::bail!("a deterministic step requested noise") };
    let mut errors = vec![];
    for iterations in [1, 5, 20] {
        let mut continue_always = |_: usize| ControlFlow::Continue(());
        let start = to_noise(&images, &bimodal, &plan, iterations, &mut continue_always).unwrap();
        let back =
            sample_from(start, &bimodal, &mut Ddim::default(), &plan, &noise, &mut keep_going)
                .unwrap();
        errors.push(
            (back - &images).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap(),
        );
    }
    println!("largest error after 1, 5 and 20 iterations: {errors:?}");
    assert!(errors[0] > errors[1] && errors[1] >= errors[2] && errors[2] < 1e-4, "{errors:?}");
}

/// With many steps, all deterministic samplers give the same image for the same noise, on any path.
#[test]
fn different_solvers_of_one_equation_agree_in_the_limit() {
    let schedule = ScheduleConfig::default().build().unwrap();
    let plan =
        SamplingPlan::new(&schedule, 500, TimestepSpacing::Trailing, SigmaSpacing::Timesteps)
            .unwrap();
    let request = SampleRequest {
        seed: 3,
        indices: vec![0, 1],
        image_shape: [1, 4, 4],
        device: &Device::Cpu,
    };
    let run = |kind: SamplerKind, plan: &SamplingPlan| {
        let mut sampler = kind.build(&SamplerOptions::default());
        let denoiser: &dyn Denoiser = &bimodal;
        sample(denoiser, &mut *sampler, plan, &request, &mut keep_going).unwrap()
    };
    let reference = run(SamplerKind::Heun, &plan);
    for kind in SamplerKind::ALL {
        if kind.is_deterministic(&SamplerOptions::default()) && !kind.follows_flow() {
            for plan in [plan.clone(), plan.variance_exploding()] {
                let difference =
                    (run(kind, &plan) - &reference).unwrap().abs().unwrap().max_all().unwrap();
                let difference = difference.to_scalar::<f32>().unwrap();
                assert!(difference < 0.02, "{kind:?}: {difference}");
            }
        }
    }
}
