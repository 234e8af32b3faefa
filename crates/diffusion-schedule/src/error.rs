use thiserror::Error;

/// Why a schedule could not be made.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ScheduleError {
    /// A schedule needs at least one step.
    #[error("num_train_timesteps is 0; a schedule needs at least 1 step")]
    NoTimesteps,
    /// More steps than any model has; the tables would fill the memory.
    #[error("num_train_timesteps is {0}; it must be at most {max}", max = crate::betas::MAX_TIMESTEPS)]
    TooManyTimesteps(usize),
    /// One of the configuration's numbers is outside its range, or not a number.
    #[error("{name} is {value}; it must lie strictly between 0 and 1")]
    OutOfUnitInterval {
        /// The field of [`crate::ScheduleConfig`].
        name: &'static str,
        /// What it was.
        value: f64,
    },
    /// A β of the table is outside (0, 1), or not a number.
    #[error("beta at t = {timestep} is {value}; every beta must lie strictly between 0 and 1")]
    Beta {
        /// 0-based index into the table.
        timestep: usize,
        /// What it was.
        value: f64,
    },
    /// Inference with no steps, or with more steps than the schedule has.
    #[error(
        "{requested} inference steps were asked of a schedule with {available}; choose 1 to {available}"
    )]
    InferenceSteps {
        /// The number asked for.
        requested: usize,
        /// The length of the schedule.
        available: usize,
    },
    /// Timesteps for inference must increase and stay inside the schedule.
    #[error(
        "inference timesteps must increase and stay below {available}, but number {position} is {timestep}"
    )]
    Timesteps {
        /// Position in the list, counted from 0, smallest timestep first.
        position: usize,
        /// The value there.
        timestep: usize,
        /// The length of the schedule.
        available: usize,
    },
    /// A plan needs at least one step.
    #[error("a sampling plan needs at least 1 step")]
    NoSteps,
    /// A part of a plan with no steps, or with more steps than the plan has.
    #[error(
        "{requested} steps were asked of a sampling plan with {available}; choose 1 to {available}"
    )]
    PartOfPlan {
        /// The number asked for.
        requested: usize,
        /// The length of the plan.
        available: usize,
    },
    /// Each step of a plan must lead to less noise.
    #[error(
        "step {number} of the plan leads from sigma {from} to {to}; sigma must be a number and fall"
    )]
    Step {
        /// Counted from 0.
        number: usize,
        /// σ before.
        from: f64,
        /// σ after.
        to: f64,
    },
    /// Rescaling to zero terminal SNR needs two different values of ᾱ.
    #[error("a schedule of one step cannot be rescaled to zero terminal SNR")]
    ZeroSnrNeedsTwoSteps,
}
