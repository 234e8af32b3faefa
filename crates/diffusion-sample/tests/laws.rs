//! What every sampler owes: its order on an equation that is solved exactly, numbers under any schedule and any number of
//! steps, and for DDIM the way back.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Result, Tensor};
use diffusion_process::{
    Denoiser, NoiseLevel, NoiseSource, Prediction, PredictionType, Threshold, Thresholded,
};
use diffusion_sample::{
    Churn, Ddim, DpmSolver, Euler, FlowEuler, FlowHeun, Heun, Lms, Pndm, Progress, SampleRequest, Sampler,
    SamplerKind, SamplerOptions, SolverType, UniPc, invert, sample, sample_from,
};
use diffusion_schedule::{BetaSchedule, SamplingPlan, ScheduleConfig, SigmaSpacing, TimestepSpacing};

/// Standard deviation of the data.
const DATA: f64 = 0.5;

/// The perfect model of data that is normal with mean 0: E[x₀ | x] = signal·s²/(signal²·s² + noise²)·x.
fn gaussian(x: &Tensor, level: NoiseLevel) -> Result<Prediction> {
    let NoiseLevel { signal, noise, .. } = level;
    let total = signal * signal * DATA * DATA + noise * noise;
    // Both from x, so that neither is lost where the other factor is 0.
    Ok(Prediction {
        x0: x.affine(signal * DATA * DATA / total, 0.0)?,
        noise: x.affine(noise / total, 0.0)?,
        variance: None,
    })
}

fn keep_going(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Levels on the straight path or the variance-preserving one, from much noise to little, evenly spaced in ln σ.
fn smooth_plan(steps: usize, flow: bool) -> SamplingPlan {
    let levels: Vec<NoiseLevel> = (0..=steps)
        .map(|i| {
            let sigma = (2.0 - 4.0 * i as f64 / steps as f64).exp();
            if flow {
                NoiseLevel::flow(0.0, sigma / (1.0 + sigma))
            } else {
                NoiseLevel::variance_preserving(0.0, 1.0 / (1.0 + sigma * sigma))
            }
        })
        .collect();
    SamplingPlan::through(&levels).unwrap()
}

/// |x − exact| at the end, in f64. Probability flow only rescales a Gaussian: x' = x·std'/std.
fn error(sampler: &mut dyn Sampler, steps: usize, flow: bool) -> f64 {
    let plan = smooth_plan(steps, flow);
    let deviation = |l: &NoiseLevel| (l.signal * DATA).hypot(l.noise);
    let (from, to) = (plan.start(), plan.steps()[steps - 1].to);
    let x = Tensor::full(1f64, (1, 1, 1, 1), &Device::Cpu).unwrap();
    let noise =
        |_: usize| -> Result<Tensor> { candle_core::bail!("a deterministic sampler asked for noise") };
    let end = sample_from(x, &gaussian, sampler, &plan, &noise, &mut keep_going).unwrap();
    let end = end.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0];
    (end - deviation(&to) / deviation(&from)).abs()
}

/// The slope of ln(error) against −ln(steps).
fn order(make: &dyn Fn() -> Box<dyn Sampler>, flow: bool) -> f64 {
    let errors = [40, 80, 160].map(|steps| error(&mut *make(), steps, flow));
    (errors[0] / errors[2]).log2() / 2.0
}

#[test]
fn every_deterministic_sampler_has_the_order_that_theory_gives_it() {
    fn full_order<T: Sampler + 'static>(mut solver: T, set: fn(&mut T)) -> Box<dyn Sampler> {
        set(&mut solver);
        Box::new(solver)
    }
    type Make = Box<dyn Fn() -> Box<dyn Sampler>>;
    let dpm = |order, solver_type| -> Make {
        Box::new(move || {
            full_order(DpmSolver::new(order, solver_type, false), |s| s.lower_order_final = false)
        })
    };
    let unipc =
        |order| -> Make { Box::new(move || full_order(UniPc::new(order), |s| s.lower_order_final = false)) };
    let cases: [(&str, Make, bool, f64); 14] = [
        ("ddim", Box::new(|| Box::new(Ddim::default())), false, 1.0),
        ("euler", Box::new(|| Box::new(Euler::default())), false, 1.0),
        ("heun", Box::new(|| Box::new(Heun::default())), false, 2.0),
        ("dpm-solver++ 1", dpm(1, SolverType::Midpoint), false, 1.0),
        ("dpm-solver++ 2M", dpm(2, SolverType::Midpoint), false, 2.0),
        ("dpm-solver++ 2M, Heun", dpm(2, SolverType::Heun), false, 2.0),
        ("unipc 1", unipc(1), false, 2.0),
        ("unipc 2", unipc(2), false, 3.0),
        ("lms 1", Box::new(|| Box::new(Lms::new(1))), false, 1.0),
        ("lms 2", Box::new(|| Box::new(Lms::new(2))), false, 2.0),
        ("pndm", Box::new(|| Box::new(Pndm::default())), false, 2.0),
        ("pndm, Runge-Kutta", Box::new(|| Box::new(Pndm::new(true, PredictionType::Epsilon))), false, 2.0),
        ("flow-euler", Box::new(|| Box::new(FlowEuler)), true, 1.0),
        ("flow-heun", Box::new(|| Box::new(FlowHeun)), true, 2.0),
    ];
    for (name, make, flow, theory) in cases {
        let found = order(&*make, flow);
        println!("{name}: order {found:.2}, in theory {theory}");
        assert!(found > theory - 0.25, "{name}: order {found:.2}, in theory {theory}");
    }
}

#[test]
fn nothing_overflows_under_any_schedule_sampler_spacing_and_number_of_steps() {
    let schedules = [
        (BetaSchedule::Linear, false),
        (BetaSchedule::ScaledLinear, false),
        (BetaSchedule::Cosine, false),
        (BetaSchedule::Sigmoid, false),
        (BetaSchedule::Linear, true),
        (BetaSchedule::Cosine, true),
    ];
    let options =
        SamplerOptions { eta: 1.0, churn: Churn { amount: 2.0, ..Churn::default() }, ..Default::default() };
    let request = SampleRequest { seed: 3, indices: 0..2, image_shape: [1, 4, 4], device: &Device::Cpu };
    for (beta_schedule, rescale_betas_zero_snr) in schedules {
        let config = ScheduleConfig { beta_schedule, rescale_betas_zero_snr, ..Default::default() };
        let schedule = config.build().unwrap();
        for kind in SamplerKind::ALL {
            for steps in [1, 2, 3, 4, 5, 10, 31, 103] {
                for spacing in
                    [TimestepSpacing::Leading, TimestepSpacing::Linspace, TimestepSpacing::Trailing]
                {
                    for sigmas in [SigmaSpacing::Timesteps, SigmaSpacing::Karras, SigmaSpacing::Exponential] {
                        let plan = if kind.follows_flow() {
                            SamplingPlan::flow(steps, 1000.0).unwrap()
                        } else {
                            SamplingPlan::new(&schedule, steps, spacing, sigmas).unwrap()
                        };
                        let what = || format!("{kind:?}, {config:?}, {steps} steps, {spacing:?}, {sigmas:?}");
                        for options in [&SamplerOptions::default(), &options] {
                            let run = |denoiser: &dyn Denoiser| {
                                let x = sample(
                                    denoiser,
                                    &mut *kind.build(options),
                                    &plan,
                                    &request,
                                    &mut keep_going,
                                );
                                // A number that is none is an error of `sample`.
                                let x = x.unwrap_or_else(|e| panic!("{}: {e}", what()));
                                x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
                            };
                            run(&gaussian);
                            // Formulas that extrapolate to the last step are far off with two or three steps, others
                            // stay where images are kept.
                            let extrapolates =
                                matches!(kind, SamplerKind::Pndm | SamplerKind::Lms) && steps < 10;
                            let largest = run(&Thresholded::new(&gaussian, Threshold::Clip { range: 1.0 }));
                            assert!(largest < 3.0 || extrapolates, "{}: {largest}", what());
                        }
                    }
                }
            }
        }
    }
}

/// The perfect model of pixels that are normal around one of two values, ±0.6: not linear, so that the way is bent.
fn bent(x: &Tensor, level: NoiseLevel) -> Result<Prediction> {
    const CENTRE: f64 = 0.6;
    const WIDTH: f64 = 0.3;
    let NoiseLevel { signal, noise, .. } = level;
    let total = signal * signal * WIDTH * WIDTH + noise * noise;
    let gain = signal * WIDTH * WIDTH / total;
    let side = x.affine(signal * CENTRE / total, 0.0)?.tanh()?;
    let x0 = (x.affine(gain, 0.0)? + side.affine(CENTRE * (1.0 - gain * signal), 0.0)?)?;
    // (x − signal·x̂₀)/noise, without the difference of nearly equal numbers.
    let noise = (x.affine(noise / total, 0.0)? - side.affine(CENTRE * signal * noise / total, 0.0)?)?;
    Ok(Prediction { x0, noise, variance: None })
}

#[test]
fn inversion_leads_to_noise_from_which_the_image_returns() {
    let schedule = ScheduleConfig::default().build().unwrap();
    let plan = SamplingPlan::new(&schedule, 50, TimestepSpacing::Trailing, SigmaSpacing::Timesteps).unwrap();
    let images =
        NoiseSource::new(1).normal(diffusion_process::Domain::Initial, 0, 0..2, &[1, 8, 8], &Device::Cpu);
    let images = images.unwrap().tanh().unwrap().to_dtype(DType::F64).unwrap();
    let noise = |_: usize| -> Result<Tensor> { candle_core::bail!("there is no noise") };
    let mut errors = vec![];
    for iterations in [1, 5, 20] {
        let mut on = |_: usize| ControlFlow::Continue(());
        let start = invert(&bent, &images, &plan, iterations, &mut on).unwrap().unwrap();
        let back = sample_from(start, &bent, &mut Ddim::default(), &plan, &noise, &mut keep_going).unwrap();
        errors.push((back - &images).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap());
    }
    println!("largest error after 1, 5 and 20 iterations: {errors:?}");
    assert!(errors[0] > errors[1] && errors[1] >= errors[2] && errors[2] < 1e-4, "{errors:?}");
}

/// Deterministic samplers of many steps meet at the same image from the same noise, whatever path they take.
#[test]
fn different_solvers_of_one_equation_agree_in_the_limit() {
    let schedule = ScheduleConfig::default().build().unwrap();
    let plan = SamplingPlan::new(&schedule, 500, TimestepSpacing::Trailing, SigmaSpacing::Timesteps).unwrap();
    let request = SampleRequest { seed: 3, indices: 0..2, image_shape: [1, 4, 4], device: &Device::Cpu };
    let run = |kind: SamplerKind, plan: &SamplingPlan| {
        let mut sampler = kind.build(&SamplerOptions::default());
        let denoiser: &dyn Denoiser = &bent;
        sample(denoiser, &mut *sampler, plan, &request, &mut keep_going).unwrap()
    };
    let reference = run(SamplerKind::Heun, &plan);
    for kind in SamplerKind::ALL {
        if kind.is_deterministic(&SamplerOptions::default()) && !kind.follows_flow() {
            for plan in [plan.clone(), plan.variance_exploding()] {
                let difference = (run(kind, &plan) - &reference).unwrap().abs().unwrap().max_all().unwrap();
                let difference = difference.to_scalar::<f32>().unwrap();
                assert!(difference < 0.02, "{kind:?}: {difference}");
            }
        }
    }
}
