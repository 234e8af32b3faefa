//! A scheduler as the sampling method of a model.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use diffusion_model::{LoadedModel, RunLayout, SamplingMethod};
use diffusion_process::Threshold;
use diffusion_sample::Sampler;
use diffusion_schedule::SamplingPlan;

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

    /// The method of the run that contains the folder `checkpoint`; `None` if it has no
    /// `scheduler_config.json`, as only imported runs have.
    ///
    /// # Errors
    /// If the file is damaged or names a scheduler that is not supported.
    pub fn of_run(checkpoint: &Path) -> Result<Option<Self>, InteropError> {
        let file = RunLayout::of_checkpoint(checkpoint).map(|run| run.scheduler());
        let Some(file) = file.filter(|file| file.is_file()) else { return Ok(None) };
        Ok(Some(Self::new(Scheduler::read(&file)?.0)))
    }

    /// Makes this the method of `model`.
    pub fn set(self, model: &mut LoadedModel) {
        model.method = Some(Arc::new(self));
    }
}

impl Scheduler {
    /// The default number of sampling steps: all timesteps for `DDPMScheduler`, 50 for the other
    /// first-order methods and PNDM, fewer for those of higher order.
    pub fn default_steps(&self) -> usize {
        let timesteps = match &self.config().trained_betas {
            Some(betas) => betas.len(),
            None => self.schedule_config().num_train_timesteps,
        };
        match self.class() {
            SchedulerClass::Ddpm => timesteps,
            SchedulerClass::DpmSolverMultistep | SchedulerClass::UniPc => timesteps.min(20),
            SchedulerClass::Heun => timesteps.min(25),
            SchedulerClass::EdmEuler | SchedulerClass::EdmDpmSolverMultistep => 50,
            _ => timesteps.min(50),
        }
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
