//! The steps that a sampler takes.

use crate::{KARRAS_RHO, NoiseLevel, NoiseSchedule, ScheduleError, SigmaSpacing, TimestepSpacing};

/// One step, from a level to a cleaner one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanStep {
    /// Where x is.
    pub from: NoiseLevel,
    /// Where it is to be.
    pub to: NoiseLevel,
    /// Halfway in time, for samplers that look there, where it is known.
    pub middle: Option<NoiseLevel>,
    /// Whether a sampler that adds noise does so in this step.
    pub noisy: bool,
}

/// The steps of a sampling, the noisiest first. A sampler sees nothing else of a schedule: whether it was respaced, where the
/// levels come from and which scale they have is settled here.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingPlan {
    steps: Vec<PlanStep>,
}

/// The largest σ of a plan: at a level without any signal, where σ is infinite, the method of most samplers breaks off.
const MAX_SIGMA: f64 = 4096.0;

impl SamplingPlan {
    /// From steps that were made elsewhere.
    ///
    /// # Errors
    /// No steps; a step that does not lead from more noise to less; numbers that are none.
    pub fn from_steps(steps: Vec<PlanStep>) -> Result<Self, ScheduleError> {
        if steps.is_empty() {
            return Err(ScheduleError::NoSteps);
        }
        for (number, PlanStep { from, to, .. }) in steps.iter().enumerate() {
            let sound = |level: &NoiseLevel| {
                level.timestep.is_finite()
                    && (0.0..=1.0).contains(&level.signal)
                    && level.noise.is_finite()
            };
            let (before, after) = (from.sigma(), to.sigma());
            // Two equal levels, as some spacings end in, may differ by a rounding error.
            let rises = after > before * (1.0 + 1e-9);
            if !sound(from) || !sound(to) || before.is_nan() || rises {
                return Err(ScheduleError::Step { number, from: before, to: after });
            }
        }
        Ok(Self { steps })
    }

    /// Through `levels`, each to the next; only the last step adds no noise.
    ///
    /// # Errors
    /// As [`Self::from_steps`]; fewer than two levels.
    pub fn through(levels: &[NoiseLevel]) -> Result<Self, ScheduleError> {
        let count = levels.len().saturating_sub(1);
        let step = |(i, pair): (usize, &[NoiseLevel])| PlanStep {
            from: pair[0],
            to: pair[1],
            middle: None,
            noisy: i + 1 < count,
        };
        Self::from_steps(levels.windows(2).enumerate().map(step).collect())
    }

    /// Every step of `schedule`, respaced or not, and from its first one to the image itself.
    pub fn of(schedule: &NoiseSchedule) -> Self {
        let level = |i: usize| schedule.level(i);
        let steps = (0..schedule.len())
            .rev()
            .map(|i| PlanStep {
                from: level(i),
                to: if i == 0 { NoiseLevel::CLEAN } else { level(i - 1) },
                middle: None,
                noisy: i > 0,
            })
            .collect();
        Self { steps }
    }

    /// `steps` steps through `schedule`, whose levels are those of `spacing`'s timesteps or of `sigmas` between the
    /// noisiest and the cleanest of those.
    ///
    /// # Errors
    /// No steps, or more than the schedule has.
    pub fn new(
        schedule: &NoiseSchedule,
        steps: usize,
        spacing: TimestepSpacing,
        sigmas: SigmaSpacing,
    ) -> Result<Self, ScheduleError> {
        let respaced = schedule.respace(steps, spacing)?;
        if sigmas == SigmaSpacing::Timesteps {
            return Ok(Self::of(&respaced));
        }
        let max = respaced.level(steps - 1).sigma().min(MAX_SIGMA);
        let min = schedule.level(0).sigma();
        let sigmas = sigmas.sigmas(steps, min, max, KARRAS_RHO).into_iter();
        let mut levels: Vec<NoiseLevel> =
            sigmas.map(|sigma| schedule.level_at_sigma(sigma)).collect();
        levels.push(NoiseLevel::CLEAN);
        Self::through(&levels)
    }

    /// `steps` steps from noise alone to the image on the straight path of flow matching: evenly spaced from s = 1 to 0. The
    /// network is told s · `scale`.
    ///
    /// # Errors
    /// No steps.
    pub fn flow(steps: usize, scale: f64) -> Result<Self, ScheduleError> {
        let level = |i: usize| {
            let s = (steps - i) as f64 / steps as f64;
            NoiseLevel::flow(s * scale, s)
        };
        Self::through(&(0..=steps).map(level).collect::<Vec<_>>())
    }

    /// `steps` steps from `max` down to `min` and then to the image, on the variance-exploding path, with ρ as in Karras
    /// et al. 2022, eq. 5. The network is told ln(σ)/4 (table 1).
    ///
    /// # Errors
    /// No steps; σ that do not fall.
    pub fn edm(steps: usize, min: f64, max: f64, rho: f64) -> Result<Self, ScheduleError> {
        let sigmas = SigmaSpacing::Karras.sigmas(steps, min, max, rho);
        let levels: Vec<NoiseLevel> =
            sigmas.into_iter().map(NoiseLevel::edm).chain([NoiseLevel::CLEAN]).collect();
        Self::through(&levels)
    }

    /// The same steps with a signal of 1 throughout. A level without signal becomes one of a very large σ.
    #[must_use]
    pub fn variance_exploding(&self) -> Self {
        let scaled = |level: &NoiseLevel| {
            NoiseLevel::variance_exploding(level.timestep, level.sigma().min(MAX_SIGMA))
        };
        let steps = self.steps.iter().map(|step| PlanStep {
            from: scaled(&step.from),
            to: scaled(&step.to),
            middle: step.middle.as_ref().map(scaled),
            noisy: step.noisy,
        });
        Self { steps: steps.collect() }
    }

    /// The first `steps` steps alone, which stop in the middle of the way.
    ///
    /// # Errors
    /// No steps, or more than there are.
    pub fn first(&self, steps: usize) -> Result<Self, ScheduleError> {
        self.part(steps, |all| &all[..steps])
    }

    /// The last `steps` steps alone, which lead from the middle of the way to the image.
    ///
    /// # Errors
    /// No steps, or more than there are.
    pub fn last(&self, steps: usize) -> Result<Self, ScheduleError> {
        self.part(steps, |all| &all[all.len() - steps..])
    }

    fn part(
        &self,
        steps: usize,
        of: impl Fn(&[PlanStep]) -> &[PlanStep],
    ) -> Result<Self, ScheduleError> {
        if steps == 0 || steps > self.steps.len() {
            return Err(ScheduleError::PartOfPlan {
                requested: steps,
                available: self.steps.len(),
            });
        }
        Ok(Self { steps: of(&self.steps).to_vec() })
    }

    /// The timestep at which the noise is `sigma`, between those of the plan's levels as ln σ lies between theirs; beyond
    /// the ends of the plan, that of the end.
    pub fn timestep_at(&self, sigma: f64) -> f64 {
        let mut above = self.start();
        for below in
            self.steps.iter().map(|step| step.from).chain(self.steps.last().map(|step| step.to))
        {
            if below.sigma() <= sigma {
                let (high, low) = (above.lambda(), below.lambda());
                let share = (-sigma.ln() - high) / (low - high);
                return if share.is_finite() {
                    above.timestep + share.clamp(0.0, 1.0) * (below.timestep - above.timestep)
                } else {
                    below.timestep
                };
            }
            above = below;
        }
        above.timestep
    }

    /// The steps.
    pub fn steps(&self) -> &[PlanStep] {
        &self.steps
    }

    /// Where sampling begins.
    pub fn start(&self) -> NoiseLevel {
        self.steps[0].from
    }
}
