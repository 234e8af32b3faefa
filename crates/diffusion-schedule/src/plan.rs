//! The sampling plan: the list of steps that a sampler takes.
//!
//! ```text
//! levels[0..n] = n noise levels, noisiest first    // from timesteps or from σ
//! levels[n]    = the clean image                   // signal 1, noise 0
//!
//! for i in 0..n:
//!     steps[i] = { from:   levels[i],
//!                  to:     levels[i + 1],
//!                  middle: unknown,
//!                  noisy:  i + 1 < n }             // the last step adds no noise
//! ```
//!
//! A sampler reads these steps and no schedule. The plan settles for it:
//!
//! 1. The timestep. Each level carries the number that the network receives: a timestep of
//!    training, also after respacing; a fraction between two timesteps, if σ is between theirs;
//!    s·`scale` for flows; ln(σ)/4 for EDM.
//! 2. The scale. A level has both factors of x = signal·x₀ + noise·ε. So one formula serves the
//!    variance-preserving, the variance-exploding and the straight path.
//! 3. The largest σ. A level without signal has an infinite σ. `new` caps σ at 4096 where it spaces
//!    σ, and so does `variance_exploding`. Other plans may start at a level without signal.
//! 4. The last step. `to` is the clean image and `noisy` is false. A scheduler with other rules,
//!    for example noise in the last step, gives its own list to `from_steps`.
//! 5. The order. `from_steps` accepts no step that raises σ.

use crate::{KARRAS_RHO, NoiseLevel, NoiseSchedule, ScheduleError, SigmaSpacing, TimestepSpacing};

/// One step from a noise level to a less noisy one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanStep {
    /// The level of x before the step.
    pub from: NoiseLevel,
    /// The level of x after the step.
    pub to: NoiseLevel,
    /// The level halfway in time, for samplers that call the network there. `None`: not known.
    pub middle: Option<NoiseLevel>,
    /// Whether a stochastic sampler adds noise in this step.
    pub noisy: bool,
}

/// The steps of a sampler, noisiest first. At least one step.
///
/// A sampler reads its plan and no schedule. The plan decides the timesteps, the levels and their
/// scale.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingPlan {
    steps: Vec<PlanStep>,
}

/// The cap on σ in [`SamplingPlan::new`] and [`SamplingPlan::variance_exploding`]. Most samplers
/// cannot use the infinite σ of a level without signal.
const MAX_SIGMA: f64 = 4096.0;

impl SamplingPlan {
    /// A plan of the given steps.
    ///
    /// # Errors
    /// - If there are no steps.
    /// - If a step raises σ.
    /// - If a timestep or a noise factor is not finite, or a signal factor is outside [0, 1].
    pub fn from_steps(steps: Vec<PlanStep>) -> Result<Self, ScheduleError> {
        if steps.is_empty() {
            return Err(ScheduleError::NoSteps);
        }
        for (number, PlanStep { from, to, .. }) in steps.iter().enumerate() {
            let is_valid = |level: &NoiseLevel| {
                level.timestep.is_finite()
                    && (0.0..=1.0).contains(&level.signal)
                    && level.noise.is_finite()
            };
            let (before, after) = (from.sigma(), to.sigma());
            // Some spacings end in two equal levels, which may differ by a rounding error.
            let rises = after > before * (1.0 + 1e-9);
            if !is_valid(from) || !is_valid(to) || before.is_nan() || rises {
                return Err(ScheduleError::Step { number, from: before, to: after });
            }
        }
        Ok(Self { steps })
    }

    /// A plan that steps from each of `levels` to the next. Only the last step adds no noise.
    ///
    /// # Errors
    /// - If there are fewer than two levels.
    /// - If σ rises from one level to the next.
    /// - If a timestep or a noise factor is not finite, or a signal factor is outside [0, 1].
    pub fn from_levels(levels: &[NoiseLevel]) -> Result<Self, ScheduleError> {
        let count = levels.len().saturating_sub(1);
        let step = |(i, pair): (usize, &[NoiseLevel])| PlanStep {
            from: pair[0],
            to: pair[1],
            middle: None,
            noisy: i + 1 < count,
        };
        Self::from_steps(levels.windows(2).enumerate().map(step).collect())
    }

    /// A plan of all steps of `schedule`, from its last index to its first, and then to the clean
    /// image.
    pub fn from_schedule(schedule: &NoiseSchedule) -> Self {
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

    /// A plan of `steps` steps through `schedule`, ending at the clean image.
    ///
    /// With [`SigmaSpacing::Timesteps`] the levels are those of the timesteps that `spacing`
    /// selects. Otherwise `sigmas` spaces them from the noisiest of these (σ at most 4096) to the
    /// first level of `schedule`.
    ///
    /// # Errors
    /// If `steps` is 0 or larger than the length of the schedule.
    pub fn new(
        schedule: &NoiseSchedule,
        steps: usize,
        spacing: TimestepSpacing,
        sigmas: SigmaSpacing,
    ) -> Result<Self, ScheduleError> {
        let respaced = schedule.respace(steps, spacing)?;
        if sigmas == SigmaSpacing::Timesteps {
            return Ok(Self::from_schedule(&respaced));
        }
        let max = respaced.level(steps - 1).sigma().min(MAX_SIGMA);
        let min = schedule.level(0).sigma();
        let sigmas = sigmas.sigmas(steps, min, max, KARRAS_RHO).into_iter();
        let mut levels: Vec<NoiseLevel> =
            sigmas.map(|sigma| schedule.level_at_sigma(sigma)).collect();
        levels.push(NoiseLevel::CLEAN);
        Self::from_levels(&levels)
    }

    /// A plan of `steps` steps on the straight path of flow matching, from pure noise to the clean
    /// image.
    ///
    /// s is evenly spaced from 1 to 0. The network receives s · `scale` as its timestep.
    ///
    /// # Errors
    /// If `steps` is 0.
    pub fn flow(steps: usize, scale: f64) -> Result<Self, ScheduleError> {
        let level = |i: usize| {
            let s = (steps - i) as f64 / steps as f64;
            NoiseLevel::flow(s * scale, s)
        };
        Self::from_levels(&(0..=steps).map(level).collect::<Vec<_>>())
    }

    /// A plan of `steps` steps on the variance-exploding path: σ from `max` down to `min`, spaced
    /// with ρ as in Karras et al. 2022, eq. 5, and then the clean image.
    ///
    /// The network receives ln(σ)/4 as its timestep (table 1).
    ///
    /// # Errors
    /// - If `steps` is 0.
    /// - If σ rises or is not finite.
    pub fn edm(steps: usize, min: f64, max: f64, rho: f64) -> Result<Self, ScheduleError> {
        let sigmas = SigmaSpacing::Karras.sigmas(steps, min, max, rho);
        let levels: Vec<NoiseLevel> =
            sigmas.into_iter().map(NoiseLevel::edm).chain([NoiseLevel::CLEAN]).collect();
        Self::from_levels(&levels)
    }

    /// The same steps on the variance-exploding path, with a signal of 1 at every level. σ is at
    /// most 4096, also where the original level has no signal.
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

    /// A plan of the first `steps` steps only. It usually ends at a noisy level.
    ///
    /// # Errors
    /// If `steps` is 0 or larger than the number of steps.
    pub fn first(&self, steps: usize) -> Result<Self, ScheduleError> {
        self.part(steps, |all| &all[..steps])
    }

    /// A plan of the last `steps` steps only. It usually starts at a partly noisy level.
    ///
    /// # Errors
    /// If `steps` is 0 or larger than the number of steps.
    pub fn last(&self, steps: usize) -> Result<Self, ScheduleError> {
        self.part(steps, |all| &all[all.len() - steps..])
    }

    fn part(
        &self,
        steps: usize,
        select: impl Fn(&[PlanStep]) -> &[PlanStep],
    ) -> Result<Self, ScheduleError> {
        if steps == 0 || steps > self.steps.len() {
            return Err(ScheduleError::PartOfPlan {
                requested: steps,
                available: self.steps.len(),
            });
        }
        Ok(Self { steps: select(&self.steps).to_vec() })
    }

    /// The timestep at which σ is `sigma`, interpolated linearly in ln σ between the levels of the
    /// plan. Outside their range it is the timestep of the nearest end.
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

    /// The steps, noisiest first.
    pub fn steps(&self) -> &[PlanStep] {
        &self.steps
    }

    /// The level at which sampling starts.
    pub fn start(&self) -> NoiseLevel {
        self.steps[0].from
    }
}
