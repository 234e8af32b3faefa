//! A scheduler as the sampling method of a model.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use diffusion_model::{LoadedModel, ModelState, SamplingMethod};
use diffusion_process::Threshold;
use diffusion_sample::Sampler;
use diffusion_schedule::{SamplingPlan, TimestepSpacing};

use crate::{InteropError, Scheduler, SchedulerClass, StepArguments, Steps};

/// A scheduler with the arguments of its `step`.
#[derive(Clone, Debug)]
pub struct SchedulerMethod {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// The arguments of its `step`.
    pub arguments: StepArguments,
}

impl SchedulerMethod {
    /// `scheduler` with the default arguments.
    pub fn new(scheduler: Scheduler) -> Self {
        Self { scheduler, arguments: StepArguments::default() }
    }

    /// The method in the folder `checkpoint`; `None` if it has no `scheduler_config.json`, as only
    /// imported runs have.
    ///
    /// # Errors
    /// If the file is damaged or names a scheduler that is not supported.
    pub fn of_checkpoint(checkpoint: &Path) -> Result<Option<Self>, InteropError> {
        let file = checkpoint.join(ModelState::SCHEDULER);
        if !file.is_file() {
            return Ok(None);
        }
        Ok(Some(Self::new(Scheduler::read(&file)?.0)))
    }

    /// Makes this the method of `model`.
    pub fn set(self, model: &mut LoadedModel) {
        model.method = Some(Arc::new(self));
    }
}

impl Scheduler {
    /// The default number of sampling steps: all timesteps for `DDPMScheduler`, 50 for the other
    /// first-order methods and PNDM, fewer for those of higher order; at most the number of
    /// timesteps. With leading spacing, a number whose steps begin near the last timestep.
    pub fn default_steps(&self) -> usize {
        let timesteps = match &self.config().trained_betas {
            Some(betas) => betas.len(),
            None => self.schedule_config().num_train_timesteps,
        };
        // DPM-Solver and UniPC space one timestep more.
        let (most, more) = match self.class() {
            SchedulerClass::Ddpm => return timesteps,
            SchedulerClass::EdmEuler | SchedulerClass::EdmDpmSolverMultistep => return 50,
            SchedulerClass::DpmSolverMultistep | SchedulerClass::UniPc => (20, 1),
            SchedulerClass::Heun => (25, 0),
            _ => (50, 0),
        };
        if self.spacing() != TimestepSpacing::Leading {
            return timesteps.min(most);
        }
        let stride = timesteps.div_ceil(most + more).max(1);
        (timesteps / stride).saturating_sub(more).max(1)
    }
}

impl SamplingMethod for SchedulerMethod {
    fn name(&self) -> &str {
        self.scheduler.class().name()
    }

    fn default_steps(&self) -> usize {
        self.scheduler.default_steps()
    }

    fn plan(&self, steps: usize) -> Result<SamplingPlan, Box<dyn Error + Send + Sync>> {
        Ok(self.scheduler.plan(&Steps::Count(steps))?)
    }

    fn sampler(&self) -> Box<dyn Sampler> {
        self.scheduler.sampler(&self.arguments)
    }

    fn threshold(&self) -> Option<(Threshold, bool)> {
        self.scheduler.threshold(&self.arguments)
    }

    fn initial_scale(&self, plan: &SamplingPlan) -> f64 {
        self.scheduler.initial_scale(plan)
    }
}
