//! The error of schedules and plans.

use thiserror::Error;

/// Why a noise schedule or a sampling plan could not be built.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ScheduleError {
    /// The schedule has no steps.
    #[error("num_train_timesteps is 0; a schedule needs at least 1 step")]
    NoTimesteps,
    /// The schedule has so many steps that its tables could fill the memory.
    #[error(
        "num_train_timesteps is {0}; it must be at most {max}",
        max = crate::betas::MAX_TIMESTEPS
    )]
    TooManyTimesteps(usize),
    /// A number of the configuration is NaN or outside its range.
    #[error("{name} is {value}; it must be above 0 and below 1")]
    OutOfUnitInterval {
        /// The field of [`crate::ScheduleConfig`].
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// A β of the table is NaN or outside (0, 1).
    #[error("beta at t = {timestep} is {value}; every beta must be above 0 and below 1")]
    Beta {
        /// The index in the table, from 0.
        timestep: usize,
        /// Its value.
        value: f64,
    },
    /// Inference was requested with no steps, or with more steps than the schedule has.
    #[error(
        "cannot take {requested} inference steps from a schedule of {available}; \
         choose 1 to {available}"
    )]
    InferenceSteps {
        /// The requested number of steps.
        requested: usize,
        /// The length of the schedule.
        available: usize,
    },
    /// The timesteps of inference do not increase, or are outside the schedule.
    #[error(
        "inference timesteps must increase and stay below {available}, \
         but number {position} is {timestep}"
    )]
    Timesteps {
        /// The position in the list, from 0. The smallest timestep is first.
        position: usize,
        /// The timestep at this position.
        timestep: usize,
        /// The length of the schedule.
        available: usize,
    },
    /// The plan has no steps.
    #[error("a sampling plan needs at least 1 step")]
    NoSteps,
    /// A part of a plan was requested with no steps, or with more steps than the plan has.
    #[error(
        "cannot take {requested} steps from a sampling plan of {available}; choose 1 to {available}"
    )]
    PartOfPlan {
        /// The requested number of steps.
        requested: usize,
        /// The length of the plan.
        available: usize,
    },
    /// A step of the plan raises σ, or a number of it is NaN or outside its range.
    #[error(
        "step {number} of the plan goes from sigma {from} to {to}; \
         sigma must be a number and must fall"
    )]
    Step {
        /// The index of the step, from 0.
        number: usize,
        /// σ before the step.
        from: f64,
        /// σ after the step.
        to: f64,
    },
    /// A schedule of one step cannot be rescaled to zero terminal SNR, which needs two different
    /// values of ᾱ.
    #[error("a schedule of one step cannot be rescaled to zero terminal SNR")]
    ZeroSnrNeedsTwoSteps,
}
