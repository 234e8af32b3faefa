//! An equation with an exact solution: the probability flow of Gaussian data only rescales x.

use std::ops::ControlFlow;

use candle_core::{Device, Result, Tensor};
use diffusion_process::{NoiseLevel, Prediction, PredictionType};
use diffusion_sample::{
    Ddim, DpmSolver, Euler, FlowEuler, FlowHeun, Heun, Lms, Pndm, Sampler, SolverType, UniPc,
    sample_from,
};
use diffusion_schedule::SamplingPlan;

/// The standard deviation of the data.
const DATA: f64 = 0.5;

/// The perfect model of normal data with mean 0: E[x₀ | x] = signal·s²/(signal²·s² + noise²)·x.
pub(crate) fn gaussian(x: &Tensor, level: NoiseLevel) -> Result<Prediction> {
    let NoiseLevel { signal, noise, .. } = level;
    let total = signal * signal * DATA * DATA + noise * noise;
    // Both are computed from x, because a factor of 0 would lose the other one.
    Ok(Prediction {
        x0: x.affine(signal * DATA * DATA / total, 0.0)?,
        noise: x.affine(noise / total, 0.0)?,
        variance: None,
    })
}

/// A plan from high to low noise, evenly spaced in ln σ, on the straight path or on the
/// variance-preserving one.
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
    SamplingPlan::from_levels(&levels).unwrap()
}

/// |x − exact| at the end, in f64. Probability flow only rescales a Gaussian: x' = x·std'/std.
fn error(sampler: &mut dyn Sampler, steps: usize, flow: bool) -> f64 {
    let plan = smooth_plan(steps, flow);
    let deviation = |l: &NoiseLevel| (l.signal * DATA).hypot(l.noise);
    let (from, to) = (plan.start(), plan.steps()[steps - 1].to);
    let x = Tensor::full(1f64, (1, 1, 1, 1), &Device::Cpu).unwrap();
    let noise = |_: usize| -> Result<Tensor> {
        candle_core::bail!("a deterministic sampler requested noise")
    };
    let end = sample_from(x, &gaussian, sampler, &plan, &noise, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let end = end.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0];
    (end - deviation(&to) / deviation(&from)).abs()
}

/// A sampler with its name and its theoretical order.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) theory: f64,
    flow: bool,
    make: Box<dyn Fn() -> Box<dyn Sampler>>,
}

impl Case {
    fn new<S: Sampler + 'static>(
        name: &'static str,
        theory: f64,
        flow: bool,
        make: impl Fn() -> S + 'static,
    ) -> Self {
        Self { name, theory, flow, make: Box::new(move || Box::new(make())) }
    }

    /// The errors for each number of steps.
    pub(crate) fn errors(&self, steps: &[usize]) -> Vec<f64> {
        steps.iter().map(|&steps| error(&mut *(self.make)(), steps, self.flow)).collect()
    }
}

/// Every deterministic sampler, at its full order in every step.
pub(crate) fn cases() -> Vec<Case> {
    let dpm = |order, solver_type| {
        move || {
            let mut solver = DpmSolver::new(order, solver_type, false);
            solver.lower_order_final = false;
            solver
        }
    };
    let unipc = |order| {
        move || {
            let mut solver = UniPc::new(order);
            solver.lower_order_final = false;
            solver
        }
    };
    vec![
        Case::new("DDIM", 1.0, false, Ddim::default),
        Case::new("Euler", 1.0, false, Euler::default),
        Case::new("Heun", 2.0, false, Heun::default),
        Case::new("DPM-Solver++ 1", 1.0, false, dpm(1, SolverType::Midpoint)),
        Case::new("DPM-Solver++ 2M", 2.0, false, dpm(2, SolverType::Midpoint)),
        Case::new("DPM-Solver++ 2M, Heun", 2.0, false, dpm(2, SolverType::Heun)),
        Case::new("UniPC 1", 2.0, false, unipc(1)),
        Case::new("UniPC 2", 3.0, false, unipc(2)),
        Case::new("LMS 1", 1.0, false, || Lms::new(1)),
        Case::new("LMS 2", 2.0, false, || Lms::new(2)),
        Case::new("PNDM", 2.0, false, Pndm::default),
        Case::new("PNDM, Runge-Kutta", 2.0, false, || Pndm::new(true, PredictionType::Epsilon)),
        Case::new("flow, Euler", 1.0, true, || FlowEuler),
        Case::new("flow, Heun", 2.0, true, || FlowHeun),
    ]
}

/// The slope of ln(error) against −ln(steps), between the first and the last number of steps.
pub(crate) fn slope(steps: &[usize], errors: &[f64]) -> f64 {
    let last = steps.len() - 1;
    (errors[0] / errors[last]).ln() / (steps[last] as f64 / steps[0] as f64).ln()
}
