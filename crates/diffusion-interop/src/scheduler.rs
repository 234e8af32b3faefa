//! A scheduler of diffusers as a plan, a sampler and a denoiser.

use std::sync::OnceLock;

use diffusion_process::{
    Denoiser, Network, NetworkDenoiser, NoiseLevel, Parametrisation, PredictionType, Threshold,
};
use diffusion_sample::{
    Churn, Ddim, Ddpm, DpmSolver, Euler, EulerAncestral, Heun, Lms, Sampler, SolverType, UniPc,
    VarianceType, Weighting,
};
use diffusion_schedule::{
    BetaSchedule, KARRAS_RHO, KARRAS_SIGMAS, NoiseSchedule, PlanStep, SamplingPlan, ScheduleConfig,
    SigmaSpacing, TimestepSpacing,
};

use serde_json::Value;

use crate::churned::ChurnedEuler;
use crate::folder::parse_object;
use crate::levels::{SigmaTable, Sigmas, TimestepList, spaced_sigmas};
use crate::pndm::{PlainPndm, RUNGE_KUTTA_STEPS};
use crate::signed_network::SignedNetwork;
use crate::single_precision::RoundedSchedule;
use crate::{InteropError, SchedulerClass, SchedulerConfig};

/// A scheduler of `diffusers` with a checked configuration.
#[derive(Clone, Debug)]
pub struct Scheduler {
    class: SchedulerClass,
    config: SchedulerConfig,
    /// Computed by the first plan.
    rounded_schedule: OnceLock<RoundedSchedule>,
}

/// The number of sampling steps, or their timesteps.
#[derive(Clone, Debug, PartialEq)]
pub enum Steps {
    /// This number of steps.
    Count(usize),
    /// These training timesteps, the largest first. Only for `DDPMScheduler`.
    Timesteps(Vec<usize>),
}

/// The arguments of a scheduler's `step` in `diffusers`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepArguments {
    /// η of DDIM. Default: 0.
    pub eta: f64,
    /// Whether DDIM computes ε̂ from the clipped x̂₀. Default: false.
    pub use_clipped_model_output: bool,
    /// The noise that Euler adds before a step. Default: none.
    pub churn: Churn,
    /// The order of the linear multistep method. `None`: 4.
    pub order: Option<usize>,
}

impl Scheduler {
    /// Reads the text of a `scheduler_config.json`, which names the class.
    ///
    /// # Errors
    /// - If the text is not a JSON object, or has an unknown key or a value of the wrong type. The
    ///   numbers `NaN` and `Infinity` of Python's `json` are read; only `lambda_min_clipped` may be
    ///   `-Infinity`. Settings of old versions are translated.
    /// - If the class or a setting is not supported; the message names it.
    pub fn from_json(text: &str) -> Result<Self, InteropError> {
        let fields = parse_object(text)?;
        let Some(name) = fields.get("_class_name").and_then(Value::as_str) else {
            let problem = "it has no `_class_name`, which names the class of the scheduler";
            return Err(InteropError::Setting(problem.to_owned()));
        };
        let class = SchedulerClass::from_name(name)
            .ok_or_else(|| InteropError::UnknownScheduler(name.to_owned()))?;
        Self::new(class, SchedulerConfig::from_fields(fields).map_err(InteropError::Setting)?)
    }

    /// A scheduler of `class`. Like `diffusers`, it ignores settings that the class does not have.
    ///
    /// # Errors
    /// If a setting is not supported; the message names it.
    pub fn new(class: SchedulerClass, config: SchedulerConfig) -> Result<Self, InteropError> {
        let config = config.of_class(class);
        let scheduler = Self { class, config, rounded_schedule: OnceLock::new() };
        scheduler.check()?;
        Ok(scheduler)
    }

    /// The class of the scheduler.
    pub fn class(&self) -> SchedulerClass {
        self.class
    }

    /// The settings.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    fn unsupported(
        &self,
        key: &'static str,
        value: impl ToString,
        expected: impl ToString,
    ) -> InteropError {
        let (value, expected) = (value.to_string(), expected.to_string());
        InteropError::Unsupported { class: self.class.name(), key, value, expected }
    }

    fn check(&self) -> Result<(), InteropError> {
        let c = &self.config;
        let switched_on = [
            ("use_lu_lambdas", c.use_lu_lambdas),
            ("use_flow_sigmas", c.use_flow_sigmas),
            ("use_dynamic_shifting", c.use_dynamic_shifting),
        ];
        if let Some((key, _)) = switched_on.into_iter().find(|(_, on)| *on == Some(true)) {
            return Err(self.unsupported(key, true, "it is not supported"));
        }
        let one_of = |key, value: &Option<String>, known: &[&str]| match value {
            Some(value) if !known.contains(&value.as_str()) => Err(self.unsupported(
                key,
                format!("\"{value}\""),
                format!("supported: {}", known.join(", ")),
            )),
            _ => Ok(()),
        };
        let stochastic = c.algorithm_type.as_deref() == Some("sde-dpmsolver++");
        let most = if stochastic { 2 } else { 3 };
        if c.solver_order.is_some_and(|order| !(1..=most).contains(&order)) {
            let expected = format!("it must be from 1 to {most} here");
            return Err(self.unsupported("solver_order", c.solver_order.unwrap_or(0), expected));
        }
        one_of("algorithm_type", &c.algorithm_type, &["dpmsolver++", "sde-dpmsolver++"])?;
        let solver_types: &[&str] = if self.class == SchedulerClass::UniPc {
            // diffusers replaces the last three by bh2.
            &["bh1", "bh2", "midpoint", "heun", "logrho"]
        } else {
            &["midpoint", "heun"]
        };
        one_of("solver_type", &c.solver_type, solver_types)?;
        one_of("final_sigmas_type", &c.final_sigmas_type, &["zero", "sigma_min"])?;
        one_of("interpolation_type", &c.interpolation_type, &["linear"])?;
        one_of("timestep_type", &c.timestep_type, &["discrete"])?;
        one_of("sigma_schedule", &c.sigma_schedule, &["karras", "exponential"])?;
        if self.class == SchedulerClass::Ddpm {
            let known = ["fixed_small", "fixed_small_log", "fixed_large", "learned_range"];
            one_of("variance_type", &c.variance_type, &known)?;
        } else if let Some(variance) =
            c.variance_type.as_deref().filter(|variance| variance.starts_with("learned"))
        {
            return Err(self.unsupported(
                "variance_type",
                format!("\"{variance}\""),
                "a learned variance is supported by DDPMScheduler only",
            ));
        }
        if c.solver_p.as_ref().is_some_and(|value| !value.is_null()) {
            return Err(self.unsupported("solver_p", "set", "it is not supported"));
        }
        let spacings = [c.use_karras_sigmas, c.use_exponential_sigmas, c.use_beta_sigmas];
        if spacings.iter().filter(|on| **on == Some(true)).count() > 1 {
            return Err(self.unsupported(
                "use_karras_sigmas",
                true,
                "only one spacing of sigmas can be used",
            ));
        }
        if self.prediction_type() == PredictionType::Flow {
            return Err(self.unsupported(
                "prediction_type",
                "flow_prediction",
                "it is not supported here",
            ));
        }
        Ok(())
    }

    fn sigma_spacing(&self) -> Sigmas {
        let c = &self.config;
        match (c.use_karras_sigmas, c.use_exponential_sigmas, c.use_beta_sigmas) {
            (Some(true), _, _) => Sigmas::Standard(SigmaSpacing::Karras),
            (_, Some(true), _) => Sigmas::Standard(SigmaSpacing::Exponential),
            (_, _, Some(true)) => Sigmas::Beta,
            _ => Sigmas::Standard(SigmaSpacing::Timesteps),
        }
    }

    /// What the network predicts.
    pub fn prediction_type(&self) -> PredictionType {
        self.config.prediction_type.unwrap_or_default()
    }

    /// The noise schedule of the training. It has no meaning for the schedulers of Karras et al.
    /// 2022.
    ///
    /// # Errors
    /// If the settings do not describe a valid schedule.
    pub fn schedule(&self) -> Result<NoiseSchedule, InteropError> {
        let c = &self.config;
        if let Some(betas) = &c.trained_betas {
            return Ok(NoiseSchedule::from_betas(betas.clone())?);
        }
        Ok(self.schedule_config().build()?)
    }

    /// The noise schedule with the rounding errors of diffusers.
    fn rounded_schedule(&self) -> Result<&RoundedSchedule, InteropError> {
        if let Some(schedule) = self.rounded_schedule.get() {
            return Ok(schedule);
        }
        let betas = self.config.trained_betas.as_deref();
        let schedule = RoundedSchedule::new(&self.schedule_config(), betas)?;
        Ok(self.rounded_schedule.get_or_init(|| schedule))
    }

    /// The settings of the noise schedule of the training. `trained_betas` is not included.
    pub fn schedule_config(&self) -> ScheduleConfig {
        let c = &self.config;
        let (start, end) = match self.class {
            SchedulerClass::Heun => (0.00085, 0.012),
            _ => (1e-4, 0.02),
        };
        ScheduleConfig {
            num_train_timesteps: c.num_train_timesteps.unwrap_or(1000),
            beta_schedule: c.beta_schedule.unwrap_or(BetaSchedule::Linear),
            beta_start: c.beta_start.unwrap_or(start),
            beta_end: c.beta_end.unwrap_or(end),
            rescale_betas_zero_snr: c.rescale_betas_zero_snr,
        }
    }

    /// The parametrisation of the network's output, without its sign.
    fn parametrisation(&self) -> Parametrisation {
        if self.class.is_edm() {
            Parametrisation::Edm { sigma_data: self.config.sigma_data.unwrap_or(0.5) }
        } else {
            self.prediction_type().into()
        }
    }

    fn ends_at_smallest(&self) -> bool {
        self.config.final_sigmas_type.as_deref() == Some("sigma_min")
    }

    /// The denoiser of `network`, with the parametrisation of this scheduler.
    pub fn denoiser<'a>(&self, network: impl Network + 'a) -> Box<dyn Denoiser + 'a> {
        let negated = self.class.is_edm() && self.prediction_type() == PredictionType::VPrediction;
        Box::new(NetworkDenoiser::new(SignedNetwork { network, negated }, self.parametrisation()))
    }

    /// The thresholding of x̂₀, and whether ε̂ stays unchanged by it. `None`: no thresholding.
    pub fn threshold(&self, arguments: &StepArguments) -> Option<(Threshold, bool)> {
        let c = &self.config;
        let keep_noise = self.class == SchedulerClass::Ddim && !arguments.use_clipped_model_output;
        let clips = match self.class {
            SchedulerClass::Ddpm | SchedulerClass::Ddim => c.clip_sample.unwrap_or(true),
            SchedulerClass::Heun => c.clip_sample.unwrap_or(false),
            _ => false,
        };
        let threshold = if c.thresholding {
            Threshold::Dynamic {
                ratio: c.dynamic_thresholding_ratio.unwrap_or(0.995),
                max: c.sample_max_value.unwrap_or(1.0),
            }
        } else if clips {
            Threshold::Clip { range: c.clip_sample_range.unwrap_or(1.0) }
        } else {
            return None;
        };
        Some((threshold, keep_noise))
    }

    /// The sampler of this scheduler.
    pub fn sampler(&self, arguments: &StepArguments) -> Box<dyn Sampler> {
        let c = &self.config;
        match self.class {
            SchedulerClass::Ddpm => Box::new(Ddpm {
                variance: match c.variance_type.as_deref() {
                    Some("fixed_large") => VarianceType::FixedLarge,
                    Some("learned_range") => VarianceType::LearnedRange,
                    // fixed_small_log is the same variance, computed by its logarithm.
                    _ => VarianceType::FixedSmall,
                },
            }),
            SchedulerClass::Ddim => Box::new(Ddim { eta: arguments.eta }),
            SchedulerClass::DpmSolverMultistep | SchedulerClass::EdmDpmSolverMultistep => {
                let solver_type = if c.solver_type.as_deref() == Some("heun") {
                    SolverType::Heun
                } else {
                    SolverType::Midpoint
                };
                let stochastic = c.algorithm_type.as_deref() == Some("sde-dpmsolver++");
                let mut solver =
                    DpmSolver::new(c.solver_order.unwrap_or(2), solver_type, stochastic);
                solver.lower_order_final = c.lower_order_final.unwrap_or(true);
                solver.euler_at_final = c.euler_at_final.unwrap_or(false);
                Box::new(solver)
            }
            SchedulerClass::Euler | SchedulerClass::EdmEuler if arguments.churn.amount > 0.0 => {
                Box::new(ChurnedEuler {
                    churn: arguments.churn,
                    parametrisation: self.parametrisation(),
                })
            }
            SchedulerClass::Euler | SchedulerClass::EdmEuler => Box::new(Euler::default()),
            SchedulerClass::EulerAncestral => Box::new(EulerAncestral),
            SchedulerClass::Heun => Box::new(Heun::default()),
            SchedulerClass::UniPc => {
                let mut solver = UniPc::new(c.solver_order.unwrap_or(2));
                if c.solver_type.as_deref() == Some("bh1") {
                    solver.weighting = Weighting::Bh1;
                }
                solver.predict_x0 = c.predict_x0.unwrap_or(true);
                solver.lower_order_final = c.lower_order_final.unwrap_or(true);
                solver.uncorrected = c.disable_corrector.clone().unwrap_or_default();
                Box::new(solver)
            }
            SchedulerClass::Lms => Box::new(Lms::new(arguments.order.unwrap_or(4))),
            SchedulerClass::Pndm => {
                let levels = self.rounded_schedule().map(|schedule| {
                    (0..schedule.len()).map(|t| schedule.level(t)).collect::<Vec<_>>()
                });
                Box::new(PlainPndm::new(
                    self.has_runge_kutta_steps(),
                    self.parametrisation(),
                    // Without a schedule there is no plan either.
                    levels.unwrap_or_default(),
                ))
            }
        }
    }

    fn has_runge_kutta_steps(&self) -> bool {
        !self.config.skip_prk_steps.unwrap_or(false)
    }

    /// The factor of noise of variance 1 at the start of `plan` (`init_noise_sigma`).
    pub fn initial_scale(&self, plan: &SamplingPlan) -> f64 {
        use SchedulerClass::{EdmDpmSolverMultistep, EdmEuler, Euler, EulerAncestral, Heun, Lms};
        let largest = plan.steps().iter().map(|step| step.from.sigma()).fold(0.0, f64::max);
        match self.class {
            Euler | EulerAncestral | Heun | Lms if self.spacing() != TimestepSpacing::Leading => {
                largest
            }
            Euler | EulerAncestral | Heun | Lms | EdmEuler | EdmDpmSolverMultistep => {
                largest.hypot(1.0)
            }
            _ => 1.0,
        }
    }

    /// The sampling plan, with the timesteps and σ of `diffusers`.
    ///
    /// # Errors
    /// - If the number of steps is 0 or larger than the schedule's number of timesteps.
    /// - If timesteps do not decrease, are outside the schedule, or are given for another class
    ///   than `DDPMScheduler`.
    /// - If the settings do not describe a valid schedule.
    pub fn plan(&self, steps: &Steps) -> Result<SamplingPlan, InteropError> {
        let n = match steps {
            Steps::Count(n) => *n,
            Steps::Timesteps(_) if self.class != SchedulerClass::Ddpm => {
                return Err(self.unsupported(
                    "timesteps",
                    "a list",
                    "only DDPMScheduler takes one",
                ));
            }
            Steps::Timesteps(timesteps) => timesteps.len(),
        };
        if self.class.is_edm() {
            return self.edm_plan(n);
        }
        let schedule = self.rounded_schedule()?;
        let total = schedule.len();
        if n == 0 || n > total {
            return Err(diffusion_schedule::ScheduleError::InferenceSteps {
                requested: n,
                available: total,
            }
            .into());
        }
        match self.class {
            SchedulerClass::Ddpm | SchedulerClass::Ddim => self.plan_by_alpha(schedule, n, steps),
            SchedulerClass::Pndm => self.pndm_plan(schedule, n),
            _ => self.plan_by_sigma(schedule, n),
        }
    }

    /// How the timesteps of a plan are spaced. Default: `Leading` for DDPM, DDIM and PNDM,
    /// `Linspace` for the others.
    pub fn spacing(&self) -> TimestepSpacing {
        let by_class = match self.class {
            SchedulerClass::Ddpm | SchedulerClass::Ddim | SchedulerClass::Pndm => {
                TimestepSpacing::Leading
            }
            _ => TimestepSpacing::Linspace,
        };
        self.config.timestep_spacing.unwrap_or(by_class)
    }

    /// The timesteps of `n` steps, the largest first. `used` of the schedule's `total` timesteps
    /// are used.
    fn timesteps(&self, total: usize, used: usize, n: usize, one_more: bool) -> Vec<f64> {
        let (spacing, offset) = (self.spacing(), self.config.steps_offset.unwrap_or(0));
        TimestepList { spacing, total, used, steps: n, one_more, offset }.timesteps()
    }

    /// The level of a timestep. As in Python, −1 is the last one.
    fn level(&self, schedule: &RoundedSchedule, timestep: f64) -> Result<NoiseLevel, InteropError> {
        let total = schedule.len();
        if timestep >= total as f64 {
            return Err(self.unsupported(
                "timesteps",
                timestep,
                format!("they must be below {total}"),
            ));
        }
        let index = if timestep < 0.0 { total - 1 } else { timestep as usize };
        Ok(NoiseLevel { timestep, ..schedule.level(index) })
    }

    fn plan_by_alpha(
        &self,
        schedule: &RoundedSchedule,
        n: usize,
        steps: &Steps,
    ) -> Result<SamplingPlan, InteropError> {
        let total = schedule.len();
        let visited: Vec<f64> = match steps {
            Steps::Timesteps(list) => list.iter().map(|&t| t as f64).collect(),
            Steps::Count(_) => {
                let timesteps = self.timesteps(total, total, n, false);
                timesteps.into_iter().map(f64::round_ties_even).collect()
            }
        };
        let to_one = self.config.set_alpha_to_one.unwrap_or(true);
        let end = if to_one || self.class == SchedulerClass::Ddpm {
            NoiseLevel::CLEAN
        } else {
            schedule.level(0)
        };
        let steps = visited.iter().enumerate().map(|(i, &t)| {
            // DDIM steps back by T/N timesteps with every spacing.
            let before = match self.class {
                SchedulerClass::Ddim => Some(t - (total / n) as f64),
                _ => visited.get(i + 1).copied(),
            };
            let to = match before.filter(|before| *before >= 0.0) {
                Some(before) => self.level(schedule, before)?,
                None => end,
            };
            // DDPM adds noise where t is above 0, in the last step too.
            let noisy = if self.class == SchedulerClass::Ddpm { t > 0.0 } else { true };
            Ok(PlanStep { from: self.level(schedule, t)?, to, middle: None, noisy })
        });
        Ok(SamplingPlan::from_steps(steps.collect::<Result<_, InteropError>>()?)?)
    }

    /// The steps of PNDM. All but those of the warm-up go back by ⌊T/N⌋ timesteps, with every
    /// spacing.
    fn pndm_plan(
        &self,
        schedule: &RoundedSchedule,
        n: usize,
    ) -> Result<SamplingPlan, InteropError> {
        let total = schedule.len();
        let runge_kutta = self.has_runge_kutta_steps();
        if runge_kutta && n <= RUNGE_KUTTA_STEPS {
            return Err(self.unsupported(
                "skip_prk_steps",
                false,
                format!("it needs at least {} steps, got {n}", RUNGE_KUTTA_STEPS + 1),
            ));
        }
        let end = if self.config.set_alpha_to_one.unwrap_or(false) {
            NoiseLevel::CLEAN
        } else {
            schedule.level(0)
        };
        let visited: Vec<f64> = self.timesteps(total, total, n, false);
        let visited: Vec<f64> = visited.into_iter().map(f64::round_ties_even).collect();
        let warm_up = if runge_kutta { RUNGE_KUTTA_STEPS } else { 1 };
        let steps = visited.iter().enumerate().map(|(i, &t)| {
            let before = match visited.get(i + 1) {
                Some(next) if i < warm_up => *next,
                _ => t - (total / n) as f64,
            };
            let to = if before < 0.0 { end } else { self.level(schedule, before)? };
            Ok(PlanStep { from: self.level(schedule, t)?, to, middle: None, noisy: false })
        });
        Ok(SamplingPlan::from_steps(steps.collect::<Result<_, InteropError>>()?)?)
    }

    fn plan_by_sigma(
        &self,
        schedule: &RoundedSchedule,
        n: usize,
    ) -> Result<SamplingPlan, InteropError> {
        let table = SigmaTable::new(schedule.alphas_cumprod());
        // DPM-Solver and UniPC space one timestep more and round. The schedulers in σ interpolate
        // σ, at timesteps in single precision.
        let rounds =
            matches!(self.class, SchedulerClass::DpmSolverMultistep | SchedulerClass::UniPc);
        let used = if self.class == SchedulerClass::DpmSolverMultistep {
            self.clipped_length(schedule)
        } else {
            schedule.len()
        };
        let round = |t: f64| if rounds { t.round_ties_even() } else { f64::from(t as f32) };
        let by_timestep = self.timesteps(schedule.len(), used, n, rounds).into_iter().map(round);
        let by_timestep: Vec<(f64, f64)> = by_timestep.map(|t| (t, table.at(t))).collect();
        let spaced = match self.sigma_spacing() {
            Sigmas::Standard(SigmaSpacing::Timesteps) => None,
            sigmas => {
                // The schedulers in σ space it between the first and the last timestep, the others
                // between the ends of the table.
                let (largest, smallest) = match by_timestep.as_slice() {
                    [first, .., last] if !rounds => (first.1, last.1),
                    [only] if !rounds => (only.1, only.1),
                    _ => (table.largest(), table.smallest()),
                };
                // LMS has Karras sigmas of its own, without limits.
                let is_karras = sigmas == Sigmas::Standard(SigmaSpacing::Karras);
                let has_limits = !(is_karras && self.class == SchedulerClass::Lms);
                let min = self.config.sigma_min.filter(|_| has_limits).unwrap_or(smallest);
                let max = self.config.sigma_max.filter(|_| has_limits).unwrap_or(largest);
                let timestep = |sigma: f64| {
                    let t = table.timestep(sigma);
                    match (rounds, self.rounds_spaced(sigmas)) {
                        (false, _) => t,
                        (true, true) => t.round_ties_even(),
                        // As a whole number, without rounding first.
                        (true, false) => t.floor(),
                    }
                };
                let sigmas = spaced_sigmas(sigmas, n, min, max).into_iter();
                Some(sigmas.map(|sigma| (timestep(sigma), sigma)).collect::<Vec<_>>())
            }
        };
        let last = match &spaced {
            _ if !self.ends_at_smallest() => 0.0,
            Some(spaced) if self.class == SchedulerClass::UniPc => {
                spaced.last().map_or(0.0, |(_, sigma)| *sigma)
            }
            _ => table.smallest(),
        };
        let visited = spaced.unwrap_or(by_timestep);
        let mut levels: Vec<NoiseLevel> = visited
            .into_iter()
            .map(|(t, sigma)| NoiseLevel::variance_exploding(t, sigma))
            .collect();
        levels.push(NoiseLevel::variance_exploding(0.0, last));
        if rounds {
            for level in &mut levels {
                *level = level.scaled(level.to_variance_preserving());
            }
        }
        Self::plan_through(&levels)
    }

    /// Whether DPM-Solver and UniPC round the timesteps of these σ to the nearest.
    fn rounds_spaced(&self, sigmas: Sigmas) -> bool {
        let is_karras = sigmas == Sigmas::Standard(SigmaSpacing::Karras);
        let is_cosine = self.config.beta_schedule == Some(BetaSchedule::Cosine);
        is_karras && !(is_cosine && self.class == SchedulerClass::DpmSolverMultistep)
    }

    /// The number of timesteps whose λ is at least `lambda_min_clipped`.
    fn clipped_length(&self, schedule: &RoundedSchedule) -> usize {
        let min = self.config.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY);
        (0..schedule.len()).rev().find(|&i| schedule.level(i).lambda() >= min).map_or(1, |i| i + 1)
    }

    fn edm_plan(&self, n: usize) -> Result<SamplingPlan, InteropError> {
        if n == 0 {
            return Err(diffusion_schedule::ScheduleError::NoSteps.into());
        }
        let c = &self.config;
        let [min, max] = KARRAS_SIGMAS;
        let (min, max) = (c.sigma_min.unwrap_or(min), c.sigma_max.unwrap_or(max));
        let spacing = match c.sigma_schedule.as_deref() {
            Some("exponential") => SigmaSpacing::Exponential,
            _ => SigmaSpacing::Karras,
        };
        let sigmas = spacing.sigmas(n, min, max, c.rho.unwrap_or(KARRAS_RHO));
        let mut levels: Vec<NoiseLevel> = sigmas.into_iter().map(NoiseLevel::edm).collect();
        levels.push(if self.ends_at_smallest() { NoiseLevel::edm(min) } else { NoiseLevel::CLEAN });
        Self::plan_through(&levels)
    }

    /// The plan from each level to the next. Every step allows added noise.
    fn plan_through(levels: &[NoiseLevel]) -> Result<SamplingPlan, InteropError> {
        let step = |pair: &[NoiseLevel]| PlanStep {
            from: pair[0],
            to: pair[1],
            middle: None,
            noisy: true,
        };
        Ok(SamplingPlan::from_steps(levels.windows(2).map(step).collect())?)
    }
}
